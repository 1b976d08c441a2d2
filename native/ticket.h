/* Ticket: a request that one thread waits for, or a coroutine, settled once by whoever has its answer.
 *
 * To settle a ticket runs no Python code, so that it can be done where none may run. The thread
 * that waits sleeps on a word of the ticket, without the interpreter lock, and handles signals.
 */
#ifndef LIBOS_IPC_TICKET_H
#define LIBOS_IPC_TICKET_H

#include "ring.h"
#include "sleeper.h"

/* A ticket of this type, which is the module's. NULL with MemoryError. */
PyObject *ticket_make(PyObject *type);

/* Whether an object is a ticket, and whether one has been settled. */
bool ticket_check(PyObject *object);
bool ticket_is_settled(PyObject *ticket);

/* -1 with TypeError if an object is none. */
int ticket_require(PyObject *object);

/* Settles a ticket that is not settled, with the payload of an answer. Takes the payload over. */
void ticket_settle(PyObject *ticket, PyObject *payload);

/* The same, by a thread that is about to wait itself: an owner who is watchful is not woken, but put behind
 * those that are `ready`. */
void ticket_settle_in_turn(PyObject *ticket, PyObject *payload, struct link *ready);

/* Takes the first of them out; NULL if there is none. To be woken at once, which needs no interpreter
 * lock, and does no harm where that thread has woken by itself. */
sleeper *ticket_next(struct link *ready);

/* Takes this one out, whose thread has woken. Whether it was there: nobody had called it. */
bool ticket_leave_turn(PyObject *ticket);

/* The number of the request, where the exchange has sent it; 0 otherwise. */
void ticket_set_number(PyObject *ticket, uint64_t number);
uint64_t ticket_number(PyObject *ticket);

/* Waits until the ticket is settled, at the latest until `deadline` (of clock.h), and handles signals.
 * 1, 0 if it is too late, -1 with an exception. Blocks without the interpreter lock. */
int ticket_await(PyObject *ticket, int64_t deadline);

/* One sleep of the same, watchful if there is a `watch`, after `next` was woken if it is not NULL. 0, or an
 * errno: ETIMEDOUT, also where the watch is over, EINTR. Signals are not handled. The ticket is not settled. */
int ticket_sleep(PyObject *ticket, int64_t deadline, const struct watch *watch, sleeper *next);

/* The answer of a ticket that is settled; NULL with the error that it is. The error is given away, once: its
 * traceback will have the frame that has the ticket, and nothing is to wait for the garbage collector. */
PyObject *ticket_outcome(PyObject *ticket);

/* The ticket in a ring of tickets that are settled. */
PyObject *ticket_of_link(struct link *link);

int ticket_setup(PyObject *module);

#endif
