/* LocalIds: one process's own IDs, for Python, and the way past Python.
 *
 * The methods with a time are the machine's (`core/local_ids.py`): whoever calls them holds the lock
 * of the session, and the simulator drives them. `take` and `put` are the same for any thread that
 * does not hold that lock: they look whether anybody does, and otherwise decide within one call,
 * under the interpreter lock alone. They leave to Python all that is more than that: when the
 * leader is to be asked for a range, or to be given one back; the ID of the process itself; what is
 * not ours, not handed out, or no ID; and everything when no lock has been *offered*, as in a group
 * that was closed, and in the copy that a forked child has of its parent's.
 *
 * Nothing here runs Python code or blocks.
 */
#ifndef LIBOS_IPC_LOCAL_IDS_H
#define LIBOS_IPC_LOCAL_IDS_H

#include "native.h"

int local_ids_setup(PyObject *module);

#endif
