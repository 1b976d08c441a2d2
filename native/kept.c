#include "kept.h"

#include "tuples.h"

static struct kept_message *
slot_of(const struct kept *kept, size_t place)
{
    return &kept->slots[(kept->first + place) & (kept->room - 1)];
}

int
kept_reserve(struct kept *kept)
{
    if (kept->count < kept->room) {
        return 0;
    }
    const size_t room = kept->room == 0 ? 8 : kept->room * 2;
    struct kept_message *slots = PyMem_Calloc(room, sizeof(*slots));
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < kept->count; i++) {
        slots[i] = *slot_of(kept, i);
    }
    PyMem_Free(kept->slots);
    kept->slots = slots;
    kept->first = 0;
    kept->room = room;
    return 0;
}

void
kept_append(struct kept *kept, const struct kept_message *message)
{
    Py_INCREF(message->body);
    *slot_of(kept, kept->count) = *message;
    kept->count++;
}

const struct kept_message *
kept_at(const struct kept *kept, size_t place)
{
    return slot_of(kept, place);
}

PyObject *
kept_object(const struct kept *kept, size_t place, PyObject *kind)
{
    const struct kept_message message = *slot_of(kept, place); /* to make objects may run anything */

    Py_INCREF(message.body);
    if (message.code == KEPT_WHOLE) {
        return message.body;
    }
    PyObject *const fields[FIELDS] = {PyLong_FromUnsignedLong(message.code),
                                      PyLong_FromUnsignedLongLong(message.seq), message.body,
                                      PyLong_FromLong(0)};
    return tuple_make(kind, fields);
}

PyObject *
kept_take(struct kept *kept)
{
    PyObject *body = slot_of(kept, 0)->body;

    slot_of(kept, 0)->body = NULL;
    kept->first++;
    kept->count--;
    return body;
}

void
kept_free(struct kept *kept)
{
    PyMem_Free(kept->slots);
}
