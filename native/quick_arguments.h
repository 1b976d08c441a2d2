/* Arguments of `lockf` and `flock` as programs give them.
 *
 * What is unusual is for the Python function, which says what is wrong with it, if anything is. So
 * none of these sets an exception of its own. But a `fileno` method may run Python code, and so may a
 * signal handler in it: what that raises is not to be lost.
 */
#ifndef LIBOS_IPC_QUICK_ARGUMENTS_H
#define LIBOS_IPC_QUICK_ARGUMENTS_H

#include "native.h"

/* An int, and no other type, that fits. */
bool quick_number(PyObject *argument, int64_t *number);

/* The descriptor that an argument is, or has, or -1 if that is not so simple: 0. -1 with an exception of
 * its `fileno`, or because that is none. */
int quick_descriptor(PyObject *argument, int *fd);

/* One of lock_type (lock_slot.h), for LOCK_SH, LOCK_EX, with or without LOCK_NB, and LOCK_UN. */
bool quick_type(int64_t operation, uint32_t *type);

#endif
