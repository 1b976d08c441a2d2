#include "id_ranges.h"

static bool
is_fresh(const struct id_ranges *ids, const struct id_range *range, uint64_t id)
{
    return range->place == ID_UNOPENED ||
           (range == ids->current && ids->next <= id && id <= ids->last);
}

/* The same of one range; counts its resting IDs. */
static const char *
broken_range(const struct id_ranges *ids, const struct id_range *range, uint64_t *resting)
{
    uint64_t pending = 0;
    for (uint64_t id = range->start; id <= range->end; id++) {
        const struct id_node *node = id_nodes_find(&ids->nodes, id);
        if ((node != NULL) == is_fresh(ids, range, id)) {
            return "an ID is fresh and used, or neither";
        }
        if (node != NULL && node->range != range) {
            return "an ID is of another range";
        }
        pending += node == NULL || !node->resting;
        *resting += node != NULL && node->resting;
    }
    if (pending != range->pending) {
        return "pending IDs are miscounted";
    }
    return (range->place == ID_IDLE) == (pending == 0) ? NULL : "idle is what has nothing pending";
}

static uint64_t
length_of(const struct link *head)
{
    uint64_t length = 0;
    for (const struct link *each = head->next; each != head; each = each->next) {
        length++;
    }
    return length;
}

const char *
id_ranges_broken(const struct id_ranges *ids)
{
    uint64_t resting = 0;
    uint64_t unopened = 0;
    uint64_t waiting = 0;
    bool has_current = ids->current == NULL;
    for (size_t i = 0; i < ids->count; i++) {
        const struct id_range *range = ids->sorted[i];
        if (range->start > range->end || (i > 0 && ids->sorted[i - 1]->end >= range->start)) {
            return "ranges are empty, overlap, or are out of order";
        }
        const char *broken = broken_range(ids, range, &resting);
        if (broken != NULL) {
            return broken;
        }
        unopened += range->place == ID_UNOPENED;
        waiting += range->place == ID_UNOPENED ? (uint64_t)range->end - range->start + 1 : 0;
        has_current = has_current || range == ids->current;
    }
    if (!has_current || ids->last + 1 < ids->next ||
        (ids->next <= ids->last && (ids->current == NULL || ids->current->end != ids->last))) {
        return "the current range is another, or ends elsewhere";
    }
    if (resting != length_of(&ids->resting) || unopened != length_of(&ids->unopened) ||
        unopened != ids->unopened_count || waiting != ids->waiting ||
        ids->idle_count != length_of(&ids->idle)) {
        return "a count is wrong";
    }
    return NULL;
}
