/* QuickLockf: `lockf` as programs call it, answered without Python where that can be.
 *
 * A callable in the place of a Python function that knows everything. It looks at the arguments as
 * the function would, and at what the process's current group has offered (quick_files.h). If that
 * is enough the lock is set, with the audit event that is due; if it is not, for whatever reason,
 * the function is called with the very arguments, and says what is wrong, asks the kernel or the
 * leader, or waits.
 *
 * Everything but the call, such as its signature and documentation, is the function's.
 */
#ifndef LIBOS_IPC_QUICK_LOCKF_H
#define LIBOS_IPC_QUICK_LOCKF_H

#include "native.h"

int quick_lockf_setup(PyObject *module);

#endif
