/* What the files of the quick handle share. Contract of the whole: quick_handle.h.
 *
 *   quick_handle.c   the object; locking, and what Python says
 *   quick_commit.c   unlocking, with a new value or without
 *   section.c        blocks in which a handle is locked
 */
#ifndef LIBOS_IPC_QUICK_HANDLE_PARTS_H
#define LIBOS_IPC_QUICK_HANDLE_PARTS_H

#include "agent.h"
#include "handle_cell.h"

struct quick_handle {
    PyObject_HEAD
    PyObject *cell;     /* NULL if Python does everything, and so for the exchange */
    PyObject *exchange; /* by which we see whether a step is under way */
    struct agent_look look;
    PyObject *current; /* the value as of the last lock here */
    PyObject *known;   /* a value that was decoded, and … */
    PyObject *decoded; /* … what came of it */
    PyObject *plain;   /* the type of the values, if they cannot be changed in place, and … */
    PyObject *encode;  /* … what encodes them; None for bytes, which are what they are */
    PyObject *section; /* the types of blocks, and … */
    PyObject *box;     /* … of what is given in one to change */
    uint64_t limit;    /* bytes of a value that may be committed from here */
};

static inline struct quick_handle *
quick_handle_of(PyObject *self)
{
    return (struct quick_handle *)self;
}

/* Whether this is a handle, or derived from one. */
bool quick_handle_check(PyObject *object);

/* The cell, if the machine may be stepped from here; NULL if not. Borrowed. */
struct handle_cell *quick_handle_cell(const struct quick_handle *handle);

/* A method of Python's, bound. NULL with an exception. */
PyObject *quick_handle_method(PyObject *self, const char *name);

/* Locks in this state, if that can be done here: 1, the value and who has it now; 0 if it is for Python;
 * -1 with an exception, and it is not locked. */
int quick_handle_lock_now(PyObject *self, long state, PyObject **value, uint32_t *agent);

/* Gives the lock back of which the value could not be had, or could not be given back otherwise. The
 * exception stays what it is. */
void quick_handle_give_up(PyObject *self, uint32_t agent);

/* What a plain value is encoded to; NULL without an exception if Python has to look at it. */
PyObject *quick_handle_encode(const struct quick_handle *handle, PyObject *value);

/* Unlocks, with a new value, bytes, or NULL for none, which `value` was encoded to. 1; 0 if it is for
 * Python, and nothing has changed; -1 with MemoryError, likewise. */
int quick_handle_unlock_now(struct quick_handle *handle, uint32_t agent, PyObject *data,
                            PyObject *value);

/* Who asks: as `agent_here`, but 0 as well if Python does everything. */
int64_t quick_handle_agent(struct quick_handle *handle);

/* ---- methods */

PyObject *quick_handle_unlock(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames);
PyObject *quick_handle_shared(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames);
PyObject *quick_handle_exclusive(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames);

#endif
