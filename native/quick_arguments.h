/* Arguments of `lockf` and `flock` as programs give them, read without an exception.
 *
 * What is unusual is for the Python function, which says what is wrong with it, if anything is. So
 * none of these sets an exception; a `fileno` method may run Python code.
 */
#ifndef LIBOS_IPC_QUICK_ARGUMENTS_H
#define LIBOS_IPC_QUICK_ARGUMENTS_H

#include "native.h"

/* An int, and no other type, that fits. */
bool quick_number(PyObject *argument, int64_t *number);

/* The descriptor that an argument is, or has; -1 if that is not so simple. */
int quick_descriptor(PyObject *argument);

/* One of lock_type (lock_slot.h), for LOCK_SH, LOCK_EX, with or without LOCK_NB, and LOCK_UN. */
bool quick_type(int64_t operation, uint32_t *type);

#endif
