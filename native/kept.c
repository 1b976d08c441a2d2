#include "kept.h"

static PyObject **
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
    PyObject **slots = PyMem_Calloc(room, sizeof(*slots));
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
kept_append(struct kept *kept, PyObject *message)
{
    *slot_of(kept, kept->count) = Py_NewRef(message);
    kept->count++;
}

PyObject *
kept_at(const struct kept *kept, size_t place)
{
    return *slot_of(kept, place);
}

PyObject *
kept_take(struct kept *kept)
{
    PyObject *message = *slot_of(kept, 0);

    *slot_of(kept, 0) = NULL;
    kept->first++;
    kept->count--;
    return message;
}

void
kept_free(struct kept *kept)
{
    PyMem_Free(kept->slots);
}
