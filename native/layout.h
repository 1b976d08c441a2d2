/* Layout: the fixed fields of one kind of payload, and how many bytes may follow them.
 *
 * It does what struct.Struct does after '<', for the six kinds of integer the wire knows, and
 * besides checks the length of the whole payload against the kind of message before it reads a
 * field. A Layout never changes after it was made, so any thread may use it; it never blocks.
 */
#ifndef LIBOS_IPC_LAYOUT_H
#define LIBOS_IPC_LAYOUT_H

#include "native.h"

enum { MOST_FIELDS = 16 };

/* Adds the type to the module. */
int layout_setup(PyObject *module);

#endif
