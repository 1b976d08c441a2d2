/* QuickFlocks: `flock` of files that this process has to itself, without Python.
 *
 * Where `flock` has unlocked a file in a slot (lock_slot.h), the Python side *offers* the file with
 * its slot, and with the descriptions of it that may have locks still: these stay Python's. All others
 * are known here from then on, and only here: each one that has a lock, by a duplicate of it, which
 * goes with the lock. A number may be another descriptor by now, so each time the kernel is asked: to
 * lock, which file it is (statx), and to change or give back a lock, whether it is of the description
 * that the duplicate keeps.
 *
 *     flock(fd, LOCK_EX)   which file? -> duplicate -> slot
 *     flock(fd, LOCK_UN)   the same description? -> slot -> close the duplicate
 *
 * Whatever is not as usual is for the Python side: a slot that is closed, full or taken back, another
 * description in the way, a number that is of another description now, a second one of a known
 * description. It first *withdraws* the file, and is given what is locked; what has been withdrawn stays
 * here, without effect, until it is forgotten, so that a fork in between finds it in at least one place.
 *
 * All under the interpreter lock, which is not released but to close a duplicate (that may block).
 */
#ifndef LIBOS_IPC_QUICK_FLOCKS_H
#define LIBOS_IPC_QUICK_FLOCKS_H

#include "native.h"

/* `flock` with these arguments, if `files` is a QuickFlocks that knows how: 1, with the audit event that
 * is due; 0, perhaps with an exception to be cleared, if that is for Python, and nothing has changed;
 * -1 with an exception. */
int quick_flocks_flock(PyObject *files, PyObject *const *args, Py_ssize_t nargs);

int quick_flocks_setup(PyObject *module);

#endif
