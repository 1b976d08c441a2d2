/* Ticket: a request that one thread waits for, settled once by whoever has its answer.
 *
 * To settle a ticket runs no Python code, so that it can be done where none may run. The thread
 * that waits sleeps on a word of the ticket, without the interpreter lock, and handles signals.
 */
#ifndef LIBOS_IPC_TICKET_H
#define LIBOS_IPC_TICKET_H

#include "native.h"

/* A ticket of this type, which is the module's. NULL with MemoryError. */
PyObject *ticket_make(PyObject *type);

/* Whether an object is a ticket, and whether one has been settled. */
bool ticket_check(PyObject *object);
bool ticket_is_settled(PyObject *ticket);

/* Settles a ticket that is not settled, with the payload of an answer. Takes the payload over. */
void ticket_settle(PyObject *ticket, PyObject *payload);

/* The number of the request, where the exchange has sent it; 0 otherwise. */
void ticket_set_number(PyObject *ticket, uint64_t number);
uint64_t ticket_number(PyObject *ticket);

/* Waits until the ticket is settled, at the latest until `deadline` (of clock.h), and handles signals.
 * 1, 0 if it is too late, -1 with an exception. Blocks without the interpreter lock. */
int ticket_await(PyObject *ticket, int64_t deadline);

/* The answer of a ticket that is settled; NULL with the error that it is. */
PyObject *ticket_outcome(PyObject *ticket);

int ticket_setup(PyObject *module);

#endif
