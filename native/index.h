/* Index: from a number to the node that carries it, in O(1).
 *
 * An open-addressing hash with linear probing, at most half full. Multiplying by the golden ratio
 * spreads consecutive numbers, which is what both users have, evenly over the slots. Removal
 * shifts the rest of a run back instead of leaving a marker, so that a table which has seen a
 * billion keys is as fast as a new one. It grows and never shrinks.
 *
 * The nodes belong to the user, who places a struct node first in them. Making room is a step of
 * its own, the only one that can fail: a user reserves everywhere first and changes things then.
 * Nothing here touches a Python object, runs Python code or blocks; the caller sees to it that no
 * two threads are in here at once.
 */
#ifndef LIBOS_IPC_INDEX_H
#define LIBOS_IPC_INDEX_H

#include "native.h"

struct node {
    uint64_t key;
};

/* All zero is an empty index. */
struct index {
    struct node **slots; /* 2**bits of them, NULL where empty */
    unsigned bits;
    size_t used;
};

/* Makes room for one more node. -1 with MemoryError, and then nothing has changed. */
int index_reserve(struct index *index);

/* Adds a node; its key is not in the index, and room was reserved. */
void index_put(struct index *index, struct node *node);

/* The node of this key, or NULL. */
struct node *index_get(const struct index *index, uint64_t key);

/* Takes out a node that is in. */
void index_remove(struct index *index, const struct node *node);

/* Frees the slots, not the nodes; the index is empty then. */
void index_free(struct index *index);

#endif
