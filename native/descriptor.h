/* Descriptor: a file descriptor that is closed with the object that has it.
 *
 * A signal handler may raise between a system call that returns a descriptor and the line of Python
 * that keeps its number; the descriptor would be lost. Here it never is a number alone.
 *
 * Nothing here blocks but closing the last descriptor of a file may, for file systems that do; the
 * interpreter lock is released around it.
 */
#ifndef LIBOS_IPC_DESCRIPTOR_H
#define LIBOS_IPC_DESCRIPTOR_H

#include "native.h"

/* A duplicate, numbered from `lowest` on, or any where there are not so many. `type` is that of
 * Descriptors (native_state). NULL with OSError or MemoryError. */
PyObject *descriptor_duplicate(PyObject *type, int fd, int lowest);

/* The number of a Descriptor, -1 once closed. */
int descriptor_number(const PyObject *self);

int descriptor_setup(PyObject *module);

#endif
