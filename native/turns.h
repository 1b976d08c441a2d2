/* Turns: how processes hand the lock of a file on among themselves, in memory that they share.
 *
 * The leader makes them for a file that processes lock in turns, with the lock as one of them has it
 * then. From there on who wants the lock puts itself at the end of the queue, and may have it once it
 * is the head; who gives it back takes itself out, and wakes the next. The queue is one word, changed
 * by compare-and-swap, so who is in it, in which order, is never in doubt.
 *
 *     word u64: ended << 33 | taken << 32 | four bits for each in the queue, the head lowest: the
 *               number of its turn, from 1
 *     turn: bell u32, thread u32, wait u32, 0 u32, handle u64, number u64
 *
 *     enter:  not in it           -> at its end
 *     claim:  head, not taken     -> its grant is numbered, and then it is taken
 *     leave:  anywhere in it      -> out of it; who is the head by that is woken
 *     end:    anything            -> the same, ended; all in it are woken
 *
 * A turn is written by its process alone, while it is not in the queue or is the head. The leader ends
 * it all when it is asked for anything else, without the others' help. An end is final: the head that
 * had taken the lock has it from the leader from then on, and the others wait there, in their order.
 * The memory is not used again, so who comes late finds the end.
 *
 * What is read was written by other processes: the word is read once, turns that it names are
 * bounded, and what they say is for the leader to doubt.
 */
#ifndef LIBOS_IPC_TURNS_H
#define LIBOS_IPC_TURNS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MOST_TURNS = 8 };

struct turn {
    _Alignas(64) _Atomic uint32_t bell;
    uint32_t thread;
    uint32_t wait;
    uint32_t reserved;
    uint64_t handle; /* of the acquisition */
    uint64_t number; /* of its grant */
};

/* In shared memory, zeroed to begin with. */
struct turns {
    _Alignas(64) _Atomic uint64_t word;
    uint64_t next; /* the number of the next grant; the head's to count on */
    uint64_t last; /* the last number that may be given */
    struct turn turns[MOST_TURNS];
};

/* What stands in the queue, the head first. */
struct turns_found {
    bool taken;
    unsigned count;
    unsigned which[MOST_TURNS]; /* from 1 */
    struct turn turns[MOST_TURNS];
};

/* Puts this acquisition at the end of the queue, or with `only_first` nowhere but at its head. True if it
 * stands there, also from before. False if it cannot, or another one of the same process does. */
bool turns_enter(struct turns *turns, unsigned me, const struct turn *wanted, bool only_first);

/* The number of the grant, if this process is the head and has the lock now; 0 if it is not its turn;
 * -1 if that is for the leader to say: it was ended, or numbers are used up. Does not block. */
int64_t turns_claim(struct turns *turns, unsigned me);

/* Waits until `turns_claim` says something, and says it; 0 also at `deadline` (of clock.h), and when a
 * signal has come. Blocks; needs no interpreter lock. */
int64_t turns_await(struct turns *turns, unsigned me, int64_t deadline);

/* Takes this acquisition out of the queue, whether it has the lock or waits. False if it was not there,
 * or if the leader knows of it by now. */
bool turns_leave(struct turns *turns, unsigned me, uint64_t handle);

/* The leader, in memory that was never used: the first of these, whose turns are 1, 2, …, has the lock
 * under its number, and the others wait. `count` is 1 … MOST_TURNS. */
void turns_begin(struct turns *turns, const struct turn *queue, unsigned count, uint64_t last);

/* The leader: what is there; with `end` nobody changes it any more. */
void turns_look(struct turns *turns, bool end, struct turns_found *found);

bool turns_have_ended(const struct turns *turns);

#endif
