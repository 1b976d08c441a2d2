#include "lock_slot.h"

#include <stdbool.h>
#include <string.h>

static const uint64_t TAKEN_BACK = 1;
static const uint64_t WHICH = 2;
static const uint64_t VERSION = 4;

/* As many pieces as a table and one request can leave: each entry in two, and the new one. */
enum { MOST_PIECES = 2 * LOCK_ENTRIES + 1, LOOKS = 64 };

struct pieces {
    uint64_t count;
    struct lock_entry entries[MOST_PIECES];
};

static struct lock_table *
table_of(struct lock_slot *slot, uint64_t word)
{
    return &slot->tables[(word & WHICH) != 0];
}

/* How many entries of a table are in use, which another process may be writing: it is read once. */
static uint64_t
count_of(const struct lock_table *table)
{
    const uint64_t count = *(const volatile uint64_t *)&table->count;
    return count < LOCK_ENTRIES ? count : LOCK_ENTRIES;
}

static void
copy_table(struct lock_table *to, const struct lock_table *from)
{
    to->count = count_of(from);
    to->next = from->next;
    to->last = from->last;
    memcpy(to->entries, from->entries, to->count * sizeof *to->entries);
}

static bool
is_same_owner(const struct lock_entry *one, const struct lock_entry *other)
{
    return one->handle == other->handle && one->kind == other->kind;
}

static bool
is_overlapping(const struct lock_entry *one, const struct lock_entry *other)
{
    return one->start <= other->end && other->start <= one->end;
}

static bool
is_in_the_way(const struct lock_entry *all, uint64_t count, const struct lock_entry *wanted)
{
    for (uint64_t i = 0; i < count; i++) {
        const struct lock_entry *held = &all[i];
        if (!is_same_owner(held, wanted) && is_overlapping(held, wanted) &&
            (held->type == SLOT_WRITE || wanted->type == SLOT_WRITE)) {
            return true;
        }
    }
    return false;
}

static void
add_piece(struct pieces *pieces, const struct lock_entry *entry, uint64_t start, uint64_t end)
{
    struct lock_entry *piece = &pieces->entries[pieces->count++];
    *piece = *entry;
    piece->start = start;
    piece->end = end;
}

/* What is left of its owner's `held` beside `wanted`; what becomes one with it widens `merged`. */
static void
cut(struct pieces *pieces, const struct lock_entry *held, const struct lock_entry *wanted,
    struct lock_entry *merged)
{
    if (held->type == wanted->type) {
        if (held->start <= wanted->end + 1 && wanted->start <= held->end + 1) {
            merged->start = held->start < merged->start ? held->start : merged->start;
            merged->end = held->end > merged->end ? held->end : merged->end;
        } else {
            add_piece(pieces, held, held->start, held->end);
        }
        return;
    }
    if (held->start < wanted->start) {
        const bool before = held->end < wanted->start;
        add_piece(pieces, held, held->start, before ? held->end : wanted->start - 1);
    }
    if (held->end > wanted->end) {
        const bool behind = held->start > wanted->end;
        add_piece(pieces, held, behind ? held->start : wanted->end + 1, held->end);
    }
}

/* Everything that is held once `wanted` is set, its owner where it stood among the others. */
static void
lay_out(struct pieces *pieces, const struct lock_entry *all, uint64_t count,
        const struct lock_entry *wanted)
{
    struct lock_entry merged = *wanted;
    uint64_t place = 0;
    bool found = false;

    pieces->count = 0;
    for (uint64_t i = 0; i < count; i++) {
        const struct lock_entry *held = &all[i];
        if (!is_same_owner(held, wanted)) {
            add_piece(pieces, held, held->start, held->end);
            continue;
        }
        place = found ? place : pieces->count;
        found = true;
        cut(pieces, held, wanted, &merged);
    }
    if (wanted->type == SLOT_NONE) {
        return;
    }
    place = found ? place : pieces->count;
    struct lock_entry *at = &pieces->entries[place];
    memmove(at + 1, at, (pieces->count - place) * sizeof *at);
    *at = merged;
    pieces->count++;
}

int64_t
lock_slot_set(struct lock_slot *slot, const struct lock_entry *wanted)
{
    uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
    if (word & TAKEN_BACK) {
        return SLOT_GONE;
    }
    const struct lock_table *table = table_of(slot, word);
    const uint64_t count = count_of(table), next = table->next, last = table->last;
    const bool locks = wanted->type != SLOT_NONE;
    if (locks && is_in_the_way(table->entries, count, wanted)) {
        return SLOT_BUSY;
    }
    struct lock_entry numbered = *wanted;
    numbered.number = locks ? next : 0;
    struct pieces pieces;
    lay_out(&pieces, table->entries, count, &numbered);
    if (pieces.count > LOCK_ENTRIES || (locks && next > last)) {
        return SLOT_FULL;
    }
    /* Who looks at the other table, and sees this, sees also that it does not count any more. */
    atomic_thread_fence(memory_order_release);
    struct lock_table *other = table_of(slot, word ^ WHICH);
    other->count = pieces.count;
    other->next = next + locks;
    other->last = last;
    memcpy(other->entries, pieces.entries, pieces.count * sizeof *pieces.entries);
    /* It counts if the file has not been taken back since the word was read. */
    const bool swung = atomic_compare_exchange_strong_explicit(
        &slot->word, &word, (word + VERSION) ^ WHICH, memory_order_release, memory_order_relaxed);
    return swung ? (int64_t)numbered.number : SLOT_GONE;
}

void
lock_slot_begin(struct lock_slot *slot, uint64_t first, uint64_t last)
{
    const uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
    const uint64_t next = ((word + VERSION) & ~TAKEN_BACK) ^ WHICH;
    struct lock_table *table = table_of(slot, next);
    memset(table, 0, sizeof *table);
    table->next = first;
    table->last = last;
    atomic_store_explicit(&slot->word, next, memory_order_release);
}

void
lock_slot_recall(struct lock_slot *slot, struct lock_table *found)
{
    const uint64_t word =
        atomic_fetch_or_explicit(&slot->word, TAKEN_BACK, memory_order_acq_rel);
    copy_table(found, table_of(slot, word));
}

void
lock_slot_look(struct lock_slot *slot, struct lock_table *found)
{
    for (int look = 0; look < LOOKS; look++) {
        const uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
        copy_table(found, table_of(slot, word));
        atomic_thread_fence(memory_order_acquire);
        const uint64_t then = atomic_load_explicit(&slot->word, memory_order_relaxed);
        if ((then | TAKEN_BACK) == (word | TAKEN_BACK)) {
            return;
        }
    }
}
