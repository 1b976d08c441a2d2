/* Kept: the messages of a link that may have to be sent again, oldest first.
 *
 * A ring in one piece of memory, so that keeping and forgetting cost no allocation; it grows and
 * never shrinks. A message is here what it consists of, not a tuple of that, which would be made for
 * each and looked at for hardly any: `kept_object` makes it. Making room is the only step that can
 * fail. Nothing here runs Python code: a message that is taken out belongs to the caller, who drops
 * its `body` when everything is consistent.
 */
#ifndef LIBOS_IPC_KEPT_H
#define LIBOS_IPC_KEPT_H

#include "native.h"

/* As Python gave it: `body` is all of it. */
enum { KEPT_WHOLE = UINT32_MAX };

struct kept_message {
    PyObject *body;
    uint64_t seq;
    uint32_t code;
};

/* All zero is empty. */
struct kept {
    struct kept_message *slots; /* message i is at (first + i) modulo room */
    size_t first;
    size_t count;
    size_t room; /* a power of two, or 0 */
};

/* Makes room for one more message. -1 with MemoryError, and then nothing has changed. */
int kept_reserve(struct kept *kept);

/* Adds a message, and takes a reference to its body; room was reserved. */
void kept_append(struct kept *kept, const struct kept_message *message);

/* The message at this place from the oldest, its body borrowed; there is one. */
const struct kept_message *kept_at(const struct kept *kept, size_t place);

/* The same as an object: what Python gave, or a `kind` of tuple of (code, seq, body, 0). NULL with
 * MemoryError. */
PyObject *kept_object(const struct kept *kept, size_t place, PyObject *kind);

/* Takes the oldest message out: its body becomes the caller's. There is one. */
PyObject *kept_take(struct kept *kept);

/* Frees the ring, which is empty. */
void kept_free(struct kept *kept);

#endif
