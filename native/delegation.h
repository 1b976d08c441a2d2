/* Delegation: the Python face of a slot (lock_slot.h), at both of its ends.
 *
 * Several threads of a process are kept apart by the interpreter lock, which is not released here;
 * nothing blocks. A Delegation keeps the memory it was made of until it is closed.
 */
#ifndef LIBOS_IPC_DELEGATION_H
#define LIBOS_IPC_DELEGATION_H

#include "native.h"

int delegation_setup(PyObject *module);

#endif
