#include "id_ranges.h"

static uint64_t
size_of(const struct id_range *range)
{
    return (uint64_t)range->end - range->start + 1;
}

/* ---- the sorted array */

/* How many ranges begin at or before this ID. */
static size_t
position_after(const struct id_ranges *ids, uint64_t id)
{
    size_t low = 0;
    size_t high = ids->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (ids->sorted[middle]->start <= id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

struct id_range *
id_ranges_find(const struct id_ranges *ids, uint64_t id)
{
    const size_t position = position_after(ids, id);
    return position > 0 && id <= ids->sorted[position - 1]->end ? ids->sorted[position - 1] : NULL;
}

/* A new range, and room for it in the array; NULL with MemoryError. */
static struct id_range *
make_range(struct id_ranges *ids, uint64_t start, uint64_t end)
{
    if (ids->count == ids->room) {
        const size_t room = ids->room == 0 ? 8 : ids->room * 2;
        struct id_range **sorted = PyMem_Realloc(ids->sorted, room * sizeof(struct id_range *));
        if (sorted == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        ids->sorted = sorted;
        ids->room = room;
    }
    struct id_range *range = PyMem_Calloc(1, sizeof(*range));
    if (range == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    range->start = (uint32_t)start;
    range->end = (uint32_t)end;
    range->pending = end - start + 1;
    return range;
}

static void
enter(struct id_ranges *ids, struct id_range *range)
{
    const size_t position = position_after(ids, range->start);
    memmove(&ids->sorted[position + 1], &ids->sorted[position],
            (ids->count - position) * sizeof(*ids->sorted));
    ids->sorted[position] = range;
    ids->count++;
}

static void
drop(struct id_ranges *ids, struct id_range *range)
{
    const size_t position = position_after(ids, range->start);
    memmove(&ids->sorted[position - 1], &ids->sorted[position],
            (ids->count - position) * sizeof(*ids->sorted));
    ids->count--;
    if (ids->current == range) {
        ids->current = NULL;
    }
    PyMem_Free(range);
}

/* ---- where a range stands */

static void
make_idle(struct id_ranges *ids, struct id_range *range)
{
    range->place = ID_IDLE;
    ring_append(&ids->idle, &range->link);
    ids->idle_count++;
}

static void
make_unopened(struct id_ranges *ids, struct id_range *range, struct link *behind)
{
    range->place = ID_UNOPENED;
    ring_insert(behind, &range->link);
    ids->unopened_count++;
    ids->waiting += size_of(range);
}

static void
displace(struct id_ranges *ids, struct id_range *range)
{
    if (range->place == ID_IDLE) {
        ids->idle_count--;
    } else if (range->place == ID_UNOPENED) {
        ids->unopened_count--;
        ids->waiting -= size_of(range);
    } else {
        return;
    }
    ring_remove(&range->link);
    range->place = ID_IN_USE;
}

/* ---- life */

void
id_ranges_init(struct id_ranges *ids)
{
    ring_init(&ids->unopened);
    ring_init(&ids->idle);
    ring_init(&ids->resting);
    ids->next = 1;
    ids->last = 0;
    ids->granted = 1;
    ids->batch = 1;
}

void
id_ranges_clear(struct id_ranges *ids)
{
    for (size_t i = 0; i < ids->count; i++) {
        const struct id_range *range = ids->sorted[i];
        for (uint64_t id = range->start; range->place != ID_UNOPENED && id <= range->end; id++) {
            struct id_node *node = id_nodes_find(&ids->nodes, id);
            if (node != NULL) {
                id_nodes_forget(&ids->nodes, node);
            }
        }
        PyMem_Free(ids->sorted[i]);
    }
    id_nodes_free(&ids->nodes);
    PyMem_Free(ids->sorted);
    const double quarantine_s = ids->quarantine_s;
    const uint64_t reserve = ids->reserve;
    *ids = (struct id_ranges){.quarantine_s = quarantine_s, .reserve = reserve};
    id_ranges_init(ids);
}

/* ---- single IDs */

/* The ID that has rested for the longest time, if that is long enough; else 0. */
static uint64_t
reuse(struct id_ranges *ids, double now)
{
    if (ids->resting.next == &ids->resting) {
        return 0;
    }
    struct id_node *node = RING_MEMBER(ids->resting.next, struct id_node, link);
    if (node->since + ids->quarantine_s > now) {
        return 0;
    }
    ring_remove(&node->link);
    node->resting = false;
    displace(ids, node->range); /* if it was idle */
    node->range->pending++;
    return node->node.key;
}

/* Begins with the range that has waited for the longest time. Its first ID, 0, -1. */
static int64_t
open_next(struct id_ranges *ids)
{
    if (ids->unopened_count == 0) {
        return 0;
    }
    struct id_range *range = RING_MEMBER(ids->unopened.next, struct id_range, link);
    if (id_nodes_add(&ids->nodes, range, range->start) < 0) {
        return -1;
    }
    displace(ids, range);
    ids->current = range;
    ids->next = (uint64_t)range->start + 1;
    ids->last = range->end;
    return range->start;
}

int64_t
id_ranges_new(struct id_ranges *ids, double now)
{
    if (ids->next > ids->last) {
        const uint64_t rested = reuse(ids, now);
        return rested != 0 ? (int64_t)rested : open_next(ids);
    }
    if (id_nodes_add(&ids->nodes, ids->current, ids->next) < 0) {
        return -1;
    }
    return (int64_t)ids->next++;
}

enum id_released
id_ranges_release(struct id_ranges *ids, uint64_t id, double now)
{
    struct id_node *node = id_nodes_find(&ids->nodes, id);
    if (node == NULL || node->resting) {
        return id_ranges_find(ids, id) != NULL ? ID_NOT_LIVE : ID_NOT_OURS;
    }
    node->resting = true;
    node->since = now;
    ring_append(&ids->resting, &node->link);
    if (--node->range->pending == 0) {
        make_idle(ids, node->range);
    }
    return ID_RELEASED;
}

const struct id_range *
id_ranges_live_in(const struct id_ranges *ids, uint64_t id)
{
    const struct id_node *node = id_nodes_find(&ids->nodes, id);
    return node != NULL && !node->resting ? node->range : NULL;
}

/* ---- whole ranges */

bool
id_ranges_low(const struct id_ranges *ids, uint64_t less)
{
    const uint64_t fresh = ids->last + 1 - ids->next + ids->waiting;
    return fresh < less || (fresh - less) * 4 < ids->granted * ids->batch;
}

bool
id_ranges_have_surplus(const struct id_ranges *ids)
{
    return ids->idle_count + ids->unopened_count > ids->reserve + 2 * (ids->batch - 1);
}

struct id_range *
id_ranges_surplus(const struct id_ranges *ids)
{
    if (ids->idle_count > 0 && ids->idle_count + ids->unopened_count > ids->reserve) {
        return RING_MEMBER(ids->idle.next, struct id_range, link);
    }
    if (ids->batch > 1 || ids->unopened_count <= ids->reserve) {
        return NULL;
    }
    struct id_range *newest = RING_MEMBER(ids->unopened.previous, struct id_range, link);
    return id_ranges_low(ids, size_of(newest)) ? NULL : newest;
}

void
id_ranges_part(struct id_ranges *ids, struct id_range *range)
{
    for (uint64_t id = range->start; range->place == ID_IDLE && id <= range->end; id++) {
        id_nodes_forget(&ids->nodes, id_nodes_find(&ids->nodes, id));
    }
    displace(ids, range);
    drop(ids, range);
}

int
id_ranges_grant(struct id_ranges *ids, uint64_t start, uint64_t end)
{
    if (start < 1 || start > end || end > UINT32_MAX) {
        return 0;
    }
    const size_t position = position_after(ids, end);
    if (position > 0 && ids->sorted[position - 1]->end >= start) {
        return 0;
    }
    struct id_range *range = make_range(ids, start, end);
    if (range == NULL) {
        return -1;
    }
    enter(ids, range);
    make_unopened(ids, range, ids->unopened.previous);
    ids->granted = size_of(range);
    return 1;
}

/* ---- an ID moves away, and its range splits */

/* Counting goes on in the piece where the next ID lies. */
static void
split_current(struct id_ranges *ids, uint64_t id, struct id_range *low, struct id_range *high)
{
    if (id < ids->next) {
        ids->current = high;
        return;
    }
    ids->current = low;
    ids->last = id - 1;
    if (high != NULL) {
        make_unopened(ids, high, &ids->unopened);
    }
}

/* The piece takes what lies within its bounds over from the range that it was a part of. */
static void
take_over(struct id_ranges *ids, struct id_range *piece, struct id_range *from)
{
    for (uint64_t id = piece->start; id <= piece->end; id++) {
        struct id_node *node = id_nodes_find(&ids->nodes, id);
        if (node != NULL) {
            node->range = piece;
            piece->pending -= node->resting;
        }
    }
    from->pending -= piece->pending;
}

int
id_ranges_move_away(struct id_ranges *ids, uint64_t id)
{
    struct id_range *whole = id_ranges_find(ids, id);
    if (whole == NULL) {
        return 0;
    }
    const uint64_t below = id - whole->start;
    const uint64_t above = whole->end - id;
    struct id_range *small = NULL; /* the smaller piece is a new one: only its IDs are walked over */
    if (below > 0 && above > 0) {
        small = below < above ? make_range(ids, whole->start, id - 1)
                              : make_range(ids, id + 1, whole->end);
        if (small == NULL) {
            return -1;
        }
    }
    const bool is_current = whole == ids->current;
    const bool was_unopened = whole->place == ID_UNOPENED;
    struct link *behind = whole->link.previous;
    displace(ids, whole);
    struct id_node *node = id_nodes_find(&ids->nodes, id);
    whole->pending -= node == NULL || !node->resting;
    if (node != NULL) {
        id_nodes_forget(&ids->nodes, node);
    }
    if (small != NULL) {
        take_over(ids, small, whole);
    }
    struct id_range *low = below == 0 ? NULL : below < above && small != NULL ? small : whole;
    struct id_range *high = above == 0 ? NULL : low == whole ? small : whole;
    if (low == whole) {
        whole->end = (uint32_t)(id - 1);
    } else if (high == whole) {
        whole->start = (uint32_t)(id + 1);
    }
    if (small != NULL) {
        enter(ids, small);
    }
    if (is_current) {
        split_current(ids, id, low, high);
    } else if (was_unopened) {
        if (high != NULL) {
            make_unopened(ids, high, behind);
        }
        if (low != NULL) {
            make_unopened(ids, low, behind);
        }
    }
    if (low != NULL && low->pending == 0) {
        make_idle(ids, low);
    }
    if (high != NULL && high->pending == 0) {
        make_idle(ids, high);
    }
    if (low == NULL && high == NULL) {
        drop(ids, whole);
    }
    return 0;
}
