/* A chain: things in an order, each with its place in it, closed by a head. Plain C.
 *
 * From the head on `newer` leads to the oldest, and `older` to the newest.
 */
#ifndef LIBOS_IPC_CHAIN_H
#define LIBOS_IPC_CHAIN_H

#include <stddef.h>

/* A place in a chain, or its head. */
struct chain {
    struct chain *older;
    struct chain *newer;
};

static inline void
chain_open(struct chain *head)
{
    head->older = head->newer = head;
}

/* Puts it behind `older`, which is in a chain or heads one. */
static inline void
chain_put(struct chain *older, struct chain *entry)
{
    entry->older = older;
    entry->newer = older->newer;
    older->newer->older = entry;
    older->newer = entry;
}

static inline void
chain_take(struct chain *entry)
{
    entry->older->newer = entry->newer;
    entry->newer->older = entry->older;
}

/* What has this place, by its member `chain`. */
#define OF_CHAIN(type, entry) ((type *)(void *)((char *)(entry) - offsetof(type, chain)))

#endif
