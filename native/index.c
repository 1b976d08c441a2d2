#include "index.h"

enum { FIRST_BITS = 4 };

static size_t
mask_of(const struct index *index)
{
    return ((size_t)1 << index->bits) - 1;
}

static size_t
home_of(const struct index *index, uint64_t key)
{
    return (size_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> (64 - index->bits));
}

/* The slot that holds this key, or the empty one where it would go. There always is one. */
static size_t
slot_of(const struct index *index, uint64_t key)
{
    size_t slot = home_of(index, key);

    while (index->slots[slot] != NULL && index->slots[slot]->key != key) {
        slot = (slot + 1) & mask_of(index);
    }
    return slot;
}

int
index_reserve(struct index *index)
{
    if (index->slots != NULL && index->used < (mask_of(index) + 1) / 2) {
        return 0;
    }
    struct index grown = {.bits = index->slots == NULL ? FIRST_BITS : index->bits + 1};
    grown.slots = PyMem_Calloc(mask_of(&grown) + 1, sizeof(*grown.slots));
    if (grown.slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t slot = 0; index->slots != NULL && slot <= mask_of(index); slot++) {
        if (index->slots[slot] != NULL) {
            index_put(&grown, index->slots[slot]);
        }
    }
    PyMem_Free(index->slots);
    *index = grown;
    return 0;
}

void
index_put(struct index *index, struct node *node)
{
    index->slots[slot_of(index, node->key)] = node;
    index->used++;
}

struct node *
index_get(const struct index *index, uint64_t key)
{
    return index->slots == NULL ? NULL : index->slots[slot_of(index, key)];
}

void
index_remove(struct index *index, const struct node *node)
{
    const size_t mask = mask_of(index);
    size_t hole = slot_of(index, node->key);

    /* Whoever could stand at the hole, because its home is not between the hole and itself, moves
     * there and leaves the next hole. */
    for (size_t slot = (hole + 1) & mask; index->slots[slot] != NULL; slot = (slot + 1) & mask) {
        const size_t home = home_of(index, index->slots[slot]->key);
        if (((slot - home) & mask) >= ((slot - hole) & mask)) {
            index->slots[hole] = index->slots[slot];
            hole = slot;
        }
    }
    index->slots[hole] = NULL;
    index->used--;
}

void
index_free(struct index *index)
{
    PyMem_Free(index->slots);
    *index = (struct index){0};
}
