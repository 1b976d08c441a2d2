/* Locks of Python (threading.Lock), taken and released from C.
 *
 * 1 for yes, 0 for no, -1 with an exception.
 */
#ifndef LIBOS_IPC_PYTHON_LOCK_H
#define LIBOS_IPC_PYTHON_LOCK_H

#include "native.h"

/* The methods of a lock, bound to it. All NULL to begin with. */
struct python_lock {
    PyObject *locked;
    PyObject *acquire;
    PyObject *release;
};

/* Makes this stand for `lock`. -1 with AttributeError if it is none. */
int python_lock_bind(struct python_lock *self, PyObject *lock);
void python_lock_clear(struct python_lock *self);
int python_lock_traverse(const struct python_lock *self, visitproc visit, void *arg);

/* Whether somebody holds the lock. Runs no Python code. */
int python_lock_is_held(const struct python_lock *self);

/* Takes the lock; waits for it without the interpreter lock, and handles signals meanwhile. */
int python_lock_acquire(const struct python_lock *self);

/* Takes the lock if nobody holds it. */
int python_lock_try(const struct python_lock *self);

/* Releases the lock, which is held. Keeps the exception that there is, if any. */
void python_lock_release(const struct python_lock *self);

#endif
