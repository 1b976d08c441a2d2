/* Outstanding: the requests this process has sent and that are not answered yet, for Python.
 *
 * Numbers are given out in order from 1 and never twice. A ticket is whatever object the caller
 * wants back when the answer comes. Whoever takes a ticket out is the only one to get it; that
 * decides every race between an answer, a time-out and the death of the peer.
 *
 * Nothing blocks. A ticket is dropped, which may run any Python code including calls into the
 * same table, only after the table is consistent again; an error, also for want of memory, leaves
 * the table as it was. The methods rely on the interpreter lock to be alone in the table: between
 * two points where Python code may run, each leaves it consistent.
 */
#ifndef LIBOS_IPC_CALLS_H
#define LIBOS_IPC_CALLS_H

#include "requests.h"

/* The table behind an Outstanding; NULL with TypeError if the object is none. */
struct requests *outstanding_table(PyObject *object);

/* Adds the type to the module. */
int calls_setup(PyObject *module);

#endif
