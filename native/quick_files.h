/* QuickFiles: POSIX locks of files that this process has to itself, by descriptor, without Python.
 *
 * Where `lockf` has once locked or unlocked a file in a slot (lock_slot.h), the Python side *offers*
 * the descriptor by which that was done, with the file and its slot. From then on a lock by the same
 * number is looked for here. A number may be another descriptor by now, so each time the kernel is
 * asked what it is (statx), and to lock also how it was opened. Whatever is not as it was is for the
 * Python side: another file, a slot that is closed, full or taken back, another owner in the way.
 *
 * Nothing is kept here of what is locked: that stands in the slot, and the Python side knows that
 * something may be (`Descriptions` keeps the file for as long as it is offered here).
 *
 * All under the interpreter lock, which is kept while the kernel is asked: that waits for no file
 * system. An audit hook may let other threads run, so the slot is looked up again after it.
 */
#ifndef LIBOS_IPC_QUICK_FILES_H
#define LIBOS_IPC_QUICK_FILES_H

#include "native.h"

/* `lockf` with these arguments, if `files` is a QuickFiles that knows how: 1, with the audit event that
 * is due; 0 if that is for Python, and nothing has changed; -1 with an exception. */
int quick_files_lockf(PyObject *files, PyObject *const *args, Py_ssize_t nargs);

int quick_files_setup(PyObject *module);

#endif
