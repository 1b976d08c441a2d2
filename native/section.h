/* Section: a block in which a handle is locked, and a Box (box.h) is given there to change.
 *
 * `handle.shared()` and `handle.exclusive()` make a section without Python; so it is entered and left
 * whenever the handle can be locked and unlocked without Python (quick_handle.h). At the end of an
 * exclusive block what stands in the box is encoded and, if it is anything new, committed. Whatever is
 * not as usual goes to the handle's methods `_lock`, `_asker`, `_changed` and `_leave`.
 *
 * Bases: what a task of asyncio does is Python's. A section is entered once.
 */
#ifndef LIBOS_IPC_SECTION_H
#define LIBOS_IPC_SECTION_H

#include "native.h"

/* Whether these are kinds of sections and boxes. */
bool section_check_types(PyObject *section, PyObject *box);

int section_setup(PyObject *module);

#endif
