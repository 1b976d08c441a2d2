/* Lock: what threading.Lock is, for C code too, to which a look at one costs nothing.
 *
 * It changes under the interpreter lock alone, so that taking a free one, giving one back and
 * looking take no atomic step. Who has to wait sleeps without the interpreter lock, and handles
 * signals. Any thread may release it. In a forked child it is as it was.
 */
#ifndef LIBOS_IPC_LOCK_H
#define LIBOS_IPC_LOCK_H

#include "native.h"

/* Whether an object is a Lock. */
bool lock_check(PyObject *object);

bool lock_is_held(PyObject *lock);

/* Takes the lock if nobody holds it. */
bool lock_try(PyObject *lock);

/* Takes the lock, if it is free before `deadline` (of clock.h): 1, 0 if it was not, -1 with what a
 * signal handler has raised. Blocks. */
int lock_acquire(PyObject *lock, int64_t deadline);

/* Releases the lock, which is held. Runs no Python code. */
void lock_release(PyObject *lock);

int lock_setup(PyObject *module);

#endif
