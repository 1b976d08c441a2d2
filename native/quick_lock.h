/* QuickLock: a lock of a file that this process has to itself, taken and given without leaving C.
 *
 * The base of `FileLock`, which knows every way of locking. When that gives back a lock of a file
 * which has a slot (lock_slot.h), it *offers* the slot to its base, with all that another acquisition
 * needs, and it takes the offer back before it locks by itself again. In between `with` looks whether
 * the path still leads to that file, and locks in the slot. Whatever is not as usual goes to the
 * Python methods `acquire` and `release`: the slot is closed or full, another owner is in the way, the
 * path leads elsewhere, a task of asyncio asks.
 *
 * The same with turns (turns.h) for a slot, where it waits for a moment. Who waits on after that, or is
 * stopped by a signal, stands in the queue still, and goes on by Python: `asked`, until that is settled.
 *
 * What is held this way is known here alone (`quick`), until the Python side takes it over.
 *
 * All under the interpreter lock, which is released while the path is looked up, and while it waits.
 * A fork's copy finds its slot closed. Signal handlers run between calls only.
 */
#ifndef LIBOS_IPC_QUICK_LOCK_H
#define LIBOS_IPC_QUICK_LOCK_H

#include "native.h"

int quick_lock_setup(PyObject *module);

#endif
