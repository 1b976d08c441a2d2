#include "id_nodes.h"

#include "native.h"

int
id_nodes_add(struct id_nodes *nodes, struct id_range *range, uint64_t id)
{
    if (index_reserve(&nodes->index) < 0) {
        return -1;
    }
    struct id_node *node = nodes->unused;
    if (node != NULL) {
        nodes->unused = (struct id_node *)(void *)node->link.next;
    } else if ((node = PyMem_Malloc(sizeof(*node))) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *node = (struct id_node){.node = {.key = id}, .range = range};
    index_put(&nodes->index, &node->node);
    return 0;
}

void
id_nodes_forget(struct id_nodes *nodes, struct id_node *node)
{
    if (node->resting) {
        ring_remove(&node->link);
    }
    index_remove(&nodes->index, &node->node);
    node->link.next = (struct link *)(void *)nodes->unused;
    nodes->unused = node;
}

void
id_nodes_free(struct id_nodes *nodes)
{
    while (nodes->unused != NULL) {
        struct id_node *node = nodes->unused;
        nodes->unused = (struct id_node *)(void *)node->link.next;
        PyMem_Free(node);
    }
    index_free(&nodes->index);
}
