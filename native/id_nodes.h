/* Nodes of IDs that are handed out, or rest: found by the ID, and used again.
 *
 * Nothing here runs Python code or blocks.
 */
#ifndef LIBOS_IPC_ID_NODES_H
#define LIBOS_IPC_ID_NODES_H

#include "index.h"
#include "ring.h"

#include <stdbool.h>

struct id_range;

struct id_node {
    struct node node; /* key: the ID */
    struct link link;
    struct id_range *range;
    double since; /* when it was released */
    bool resting;
};

/* All zero is empty. */
struct id_nodes {
    struct index index;
    struct id_node *unused; /* a list by `link.next` of nodes to use again */
};

/* The node of this ID, or NULL. */
static inline struct id_node *
id_nodes_find(const struct id_nodes *nodes, uint64_t id)
{
    return (struct id_node *)(void *)index_get(&nodes->index, id);
}

/* Makes a node for an ID of this range that has none. -1 with MemoryError. */
int id_nodes_add(struct id_nodes *nodes, struct id_range *range, uint64_t id);

/* Takes a node away. */
void id_nodes_forget(struct id_nodes *nodes, struct id_node *node);

/* Frees what an empty table keeps. */
void id_nodes_free(struct id_nodes *nodes);

#endif
