/* Exchange: the way of a message by a lane, without Python.
 *
 * What the machine in Python does with every message is done here in the same order, to the same
 * counts and the same table of requests: number it, keep count of it, put it into the lane; and on
 * the other side see that it is the next, find the request that it answers and settle its ticket,
 * or hand a program's message out. Whatever is more than that (a message of the library's own, one
 * that is out of its turn, one in pieces) stays where it is, and is left to Python.
 *
 * The interpreter lock is held from a look at the session's lock to the end of a step: so a step
 * excludes all that is done under that lock, without taking it. The lock of rounds, under which
 * lanes are read, is taken.
 *
 * A thread that waits for an answer here takes the seat of the bell for that time: it is woken by
 * the answer itself, and reads it.
 */
#ifndef LIBOS_IPC_EXCHANGE_H
#define LIBOS_IPC_EXCHANGE_H

#include "native.h"

/* Whether an object is an Exchange. */
bool exchange_check(PyObject *object);

/* Whether a step may be taken from here: the exchange is open, and nobody holds the session's lock. */
bool exchange_is_free(PyObject *exchange);

int exchange_setup(PyObject *module);

#endif
