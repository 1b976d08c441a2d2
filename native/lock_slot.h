/* A slot: what one process has locked of a file by itself, in memory that it shares with its leader.
 *
 * It is a word and two tables of locks; the word says which table counts, and whether the leader
 * has taken the file back. The holder writes the other table and then swings the word to it by
 * compare-and-swap; the leader sets one bit in the word, also by compare-and-swap, and reads the
 * table that counts. So either a change was published before the file was taken back, and the
 * leader sees it, or it was not, and the holder sees that. Neither ever waits for the other,
 * which may be stopped or dead at any point.
 *
 *     word u64: version << 2 | which table << 1 | taken back
 *     table, twice: count u64, next number u64, last number u64, entries
 *     entry: handle u64, start u64, end u64, number u64,
 *            kind u32, type u32, thread u32, descriptor i32, duplicate i32, 0
 *
 * Who owns a lock is its kind and handle. What an owner sets replaces what it had there; ranges of
 * one type that touch or overlap become one; owners stand in the order in which they came. That
 * is what the leader does with the same requests.
 *
 * One thread of the holder at a time, and one of the leader: the caller sees to it. Nothing blocks.
 * What the leader reads was written by another process: a count is read once and bounded, and what
 * the entries say is for the caller to doubt.
 */
#ifndef LIBOS_IPC_LOCK_SLOT_H
#define LIBOS_IPC_LOCK_SLOT_H

#include <stdatomic.h>
#include <stdint.h>

enum { LOCK_ENTRIES = 8 };

enum lock_type { SLOT_READ = 0, SLOT_WRITE = 1, SLOT_NONE = 2 };

struct lock_entry {
    uint64_t handle;
    uint64_t start;
    uint64_t end; /* included, at most INT64_MAX */
    uint64_t number;
    uint32_t kind;
    uint32_t type;
    uint32_t thread;
    int32_t descriptor; /* by which it was locked, and a duplicate of it; -1 for none */
    int32_t duplicate;
    uint32_t reserved;
};

struct lock_table {
    uint64_t count;
    uint64_t next; /* the number of the next grant */
    uint64_t last; /* the last number that may be given */
    struct lock_entry entries[LOCK_ENTRIES];
};

struct lock_slot {
    _Atomic uint64_t word;
    struct lock_table tables[2];
};

/* What `lock_slot_set` says besides a number: the leader has the file by now; another owner is in
 * the way; it does not fit into the table, or the numbers are used up. */
enum { SLOT_GONE = -1, SLOT_BUSY = -2, SLOT_FULL = -3 };

/* The holder: locks, or with SLOT_NONE unlocks, a range. The number of the grant, 0 for unlocking, or
 * one of the above, and then nothing has changed. `wanted->number` is not read. */
int64_t lock_slot_set(struct lock_slot *slot, const struct lock_entry *wanted);

/* The leader: an empty table, with these numbers for its grants. Nobody else writes here: the last
 * holder has been told that it is over, and the next not yet that it begins. */
void lock_slot_begin(struct lock_slot *slot, uint64_t first, uint64_t last);

/* The leader: takes the file back. The table that counts; nobody writes it any more. */
void lock_slot_recall(struct lock_slot *slot, struct lock_table *found);

/* Either side: the table that counts, while the holder goes on. */
void lock_slot_look(struct lock_slot *slot, struct lock_table *found);

#endif
