/* QuickHandle: a sync handle that this process has already, locked and unlocked without leaving C.
 *
 * The base of `SyncHandle`, which knows every way of locking, and *binds* it to the cell of the handle
 * (handle_cell.h) when that is open. Then `lock` and `unlock` are done here if the cell allows it:
 * the process has what is asked for, SHARED or EXCLUSIVE, no other agent is in the way, nobody waits, no
 * recall is pending. Whatever is not as usual goes to the Python methods `_lock` and `_unlock`: a step of the
 * machine is under way, the handle or the group is closed, this process was forked, a task of
 * asyncio asks, something is wrong with the arguments.
 *
 * A value that cannot be changed in place is decoded once: Python says so with `_know`, and the same
 * version is not decoded again. A new one of such a type (`_shape` says which) is encoded here too, and
 * committed in the record of the handle (record.h), if it is small and nobody here waits for a change.
 *
 * What has a baton (baton.h) is taken and given back by that, from whichever process had it last.
 *
 * All under the interpreter lock; nothing blocks but what Python is asked for. Signal handlers run
 * between calls only, and in Python's methods.
 */
#ifndef LIBOS_IPC_QUICK_HANDLE_H
#define LIBOS_IPC_QUICK_HANDLE_H

#include "native.h"

int quick_handle_setup(PyObject *module);

#endif
