/* Delegation: the Python face of a slot (lock_slot.h), at both of its ends.
 *
 * Several threads of a process are kept apart by the interpreter lock, which is not released here;
 * nothing blocks. A Delegation keeps the memory it was made of until it is closed.
 */
#ifndef LIBOS_IPC_DELEGATION_H
#define LIBOS_IPC_DELEGATION_H

#include "lock_slot.h"
#include "native.h"

/* The slot of a Delegation; NULL without an exception if it is closed, or is none. */
struct lock_slot *delegation_slot(PyObject *object);

int delegation_setup(PyObject *module);

#endif
