/* Outstanding: the requests this process has sent and that are not answered yet.
 *
 * A request is a sequence number, the peer it was asked of, and a ticket: whatever object the
 * caller wants back when the answer comes. Numbers are given out in order from 1 and never twice.
 * Whoever takes a ticket out is the only one to get it; that decides every race between an
 * answer, a time-out and the death of the peer. Each request stands in three places:
 *
 *   by_seq   index: sequence number -> request         an answer finds its request
 *   peer     ring:  requests of one peer, by age       a death finds all of them, and only them
 *   by_age   ring:  all requests, by age               drain and the garbage collector
 *
 * Every step is O(1), or O(tickets returned). A ticket is dropped, which may run any Python code
 * including calls into the same table, only after the table is consistent again; an error, also
 * for want of memory, leaves the table as it was. Nothing blocks. The methods rely on the
 * interpreter lock to be alone in the table: between two points where Python code may run, each
 * leaves it consistent.
 */
#ifndef LIBOS_IPC_CALLS_H
#define LIBOS_IPC_CALLS_H

#include "native.h"

/* Adds the type to the module. */
int calls_setup(PyObject *module);

#endif
