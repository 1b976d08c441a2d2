/* Ring: a doubly linked list that runs through its members and through a head of its own.
 *
 * The head is a link like the others, so that no operation has a special case: an empty ring is
 * a head linked to itself. A member belongs to whoever embedded the link.
 */
#ifndef LIBOS_IPC_RING_H
#define LIBOS_IPC_RING_H

#include "native.h"

struct link {
    struct link *next;
    struct link *previous;
};

/* The struct of `type` in which `link` is the member called `member`. */
#define RING_MEMBER(link, type, member) ((type *)(void *)((char *)(link) - offsetof(type, member)))

static inline void
ring_init(struct link *head)
{
    head->next = head->previous = head;
}

/* Puts it behind another, which is in a ring or heads one. */
static inline void
ring_insert(struct link *behind, struct link *link)
{
    link->previous = behind;
    link->next = behind->next;
    behind->next->previous = link;
    behind->next = link;
}

static inline void
ring_append(struct link *head, struct link *link)
{
    ring_insert(head->previous, link);
}

static inline void
ring_remove(struct link *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
}

#endif
