/* Tuples: the program's messages, and what is kept of those sent, as Python sees them.
 *
 * Both are kinds of tuples with four fields (NamedTuples), made here without a call of their class. Of
 * a stream there are thousands: a message that nobody has kept when its handler is back is used again
 * for another, which spares the allocator and the collector two thirds of their work.
 */
#ifndef LIBOS_IPC_TUPLES_H
#define LIBOS_IPC_TUPLES_H

#include "native.h"

enum { FIELDS = 4, SPARES = 256 };

/* Empty tuples of one kind, their fields NULL and the collector told nothing of them. All zero is none. */
struct spares {
    PyObject *tuples[SPARES];
    unsigned count;
};

/* An object of a kind of tuple. Takes the fields over, also if it fails, as if one is NULL. */
PyObject *tuple_make(PyObject *kind, PyObject *const fields[FIELDS]);

/* The same, perhaps of a spare one; all of these are of the same kind. */
PyObject *spares_make(struct spares *spares, PyObject *kind, PyObject *const fields[FIELDS]);

/* Takes a reference over: to a tuple that was made here and is a spare one now, if nobody else has it. */
void spares_return(struct spares *spares, PyObject *tuple);

/* Drops those that there are. */
void spares_drop(struct spares *spares);

#endif
