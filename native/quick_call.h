/* QuickCall: `lockf` or `flock` as programs call it, answered without Python where that can be.
 *
 * A callable in the place of a Python function that knows everything. It asks what the process's
 * current group has offered, QuickFiles or QuickFlocks. If that is enough the lock is set; if it is
 * not, for whatever reason, the function is called with the very arguments, and says what is wrong,
 * asks the kernel or the leader, or waits.
 *
 * Everything but the call, such as its signature and documentation, is the function's.
 */
#ifndef LIBOS_IPC_QUICK_CALL_H
#define LIBOS_IPC_QUICK_CALL_H

#include "native.h"

int quick_call_setup(PyObject *module);

#endif
