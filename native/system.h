/* The few system calls that Python does not offer.
 *
 * Both return at once, so the interpreter lock is kept. Numbers name processes, threads and
 * descriptors of the kernel; whether a number still means who it once meant is the caller's
 * business.
 */
#ifndef LIBOS_IPC_SYSTEM_H
#define LIBOS_IPC_SYSTEM_H

#include "native.h"

int system_setup(PyObject *module);

#endif
