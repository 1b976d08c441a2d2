/* Kept: the messages of a link that may have to be sent again, oldest first.
 *
 * A ring in one piece of memory, so that keeping and forgetting cost no allocation; it grows and
 * never shrinks. Making room is the only step that can fail. Nothing here runs Python code: a
 * message that is taken out belongs to the caller, who drops it when everything is consistent.
 */
#ifndef LIBOS_IPC_KEPT_H
#define LIBOS_IPC_KEPT_H

#include "native.h"

/* All zero is empty. */
struct kept {
    PyObject **slots; /* message i is at (first + i) modulo room */
    size_t first;
    size_t count;
    size_t room; /* a power of two, or 0 */
};

/* Makes room for one more message. -1 with MemoryError, and then nothing has changed. */
int kept_reserve(struct kept *kept);

/* Adds a message, and takes a reference to it; room was reserved. */
void kept_append(struct kept *kept, PyObject *message);

/* The message at this place from the oldest, borrowed; there is one. */
PyObject *kept_at(const struct kept *kept, size_t place);

/* Takes the oldest message out; it becomes the caller's. There is one. */
PyObject *kept_take(struct kept *kept);

/* Frees the ring, which is empty. */
void kept_free(struct kept *kept);

#endif
