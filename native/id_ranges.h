/* Ranges of IDs: which IDs a process has, which of them it has handed out, and which rest.
 *
 * The data structure behind LocalIds (local_ids.h), and its rules; `core/local_ids.py` says what
 * they are for. A range is known to the leader as it stands; its IDs are one of
 *
 *     fresh     never handed out: those of unopened ranges, and next … last of the current one
 *     live      handed out
 *     resting   released, and not to be handed out again yet: a ring, the longest-rested first
 *
 * `pending` of a range counts the fresh and the live; at 0 it is idle. Only an ID that is live or
 * resting has a node, in an index, so that a range may be of any size and costs what was used of
 * it. Ranges lie in one sorted array: few, and most come and go at its ends.
 *
 * Nothing here runs Python code or blocks. The caller sees to it that no two threads are in here.
 * A step that fails with MemoryError (-1) has changed nothing.
 */
#ifndef LIBOS_IPC_ID_RANGES_H
#define LIBOS_IPC_ID_RANGES_H

#include "id_nodes.h"
#include "native.h"

enum id_place { ID_IN_USE, ID_UNOPENED, ID_IDLE };

struct id_range {
    struct link link; /* of the unopened or of the idle, as `place` says */
    uint32_t start;
    uint32_t end;
    uint64_t pending;
    enum id_place place;
};

struct id_ranges {
    struct id_range **sorted; /* by their bounds */
    size_t count;
    size_t room;
    struct id_range *current; /* NULL for none */
    uint64_t next;            /* of the current range; none is left if it is beyond `last` */
    uint64_t last;
    struct link unopened; /* the longest-waiting first */
    struct link idle;     /* the longest idle first */
    struct link resting;
    uint64_t unopened_count;
    uint64_t idle_count;
    uint64_t waiting; /* IDs in unopened ranges */
    uint64_t granted; /* size of the range granted last */
    struct id_nodes nodes;
    double quarantine_s;
    uint64_t reserve; /* wholly free ranges that stay, beside the current one */
    uint64_t batch;   /* ranges asked for, and given back, at a time */
};

void id_ranges_init(struct id_ranges *ids);

/* Forgets everything; empty and usable then. */
void id_ranges_clear(struct id_ranges *ids);

/* The range of this ID, or NULL. */
struct id_range *id_ranges_find(const struct id_ranges *ids, uint64_t id);

/* The next ID; 0 if the leader is to be asked first; -1 with MemoryError. */
int64_t id_ranges_new(struct id_ranges *ids, double now);

enum id_released { ID_NOT_OURS, ID_NOT_LIVE, ID_RELEASED };
enum id_released id_ranges_release(struct id_ranges *ids, uint64_t id, double now);

/* The range of an ID that is handed out, else NULL. */
const struct id_range *id_ranges_live_in(const struct id_ranges *ids, uint64_t id);

/* Whether less is left than a quarter of what is asked for at a time, with `less` fewer fresh IDs. */
bool id_ranges_low(const struct id_ranges *ids, uint64_t less);

/* Whether so much is wholly free that some is to be given back. */
bool id_ranges_have_surplus(const struct id_ranges *ids);

/* What is to be given back first, to come down to the reserve; NULL for nothing more. */
struct id_range *id_ranges_surplus(const struct id_ranges *ids);

/* Parts with a range that has no live IDs and is not being counted through. Frees it. */
void id_ranges_part(struct id_ranges *ids, struct id_range *range);

/* A range has come from the leader. 1; 0 if it is none, or overlaps one that is here; -1. */
int id_ranges_grant(struct id_ranges *ids, uint64_t start, uint64_t end);

/* The ID is another process's now: its range splits as at the leader. 0, -1. */
int id_ranges_move_away(struct id_ranges *ids, uint64_t id);

/* What does not hold of the invariants, NULL for nothing. O(n) in the IDs of all ranges. */
const char *id_ranges_broken(const struct id_ranges *ids);

#endif
