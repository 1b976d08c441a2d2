#define _GNU_SOURCE /* syscall */

#include "turns.h"

#include "clock.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BITS = 4, LOOKS = 64 };

static const uint64_t QUEUE = UINT32_MAX;
static const uint64_t TAKEN = UINT64_C(1) << 32;
static const uint64_t ENDED = UINT64_C(1) << 33;

/* ---- the word */

static uint64_t
word_of(const struct turns *turns)
{
    return atomic_load_explicit(&turns->word, memory_order_acquire);
}

static bool
swing(struct turns *turns, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(&turns->word, &from, to, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* The turn at this place of the queue; 0 if it is not that long. */
static unsigned
turn_at(uint64_t word, unsigned place)
{
    const unsigned which = place < MOST_TURNS ? (unsigned)((word & QUEUE) >> place * BITS & 15) : 0;
    return which <= MOST_TURNS ? which : 0;
}

/* Where this turn stands in the queue, or where that ends. */
static unsigned
place_of(uint64_t word, unsigned which)
{
    unsigned place = 0;

    while (turn_at(word, place) != which && turn_at(word, place) != 0) {
        place++;
    }
    return place;
}

static uint64_t
without(uint64_t word, unsigned place)
{
    const uint64_t queue = word & QUEUE;
    const uint64_t before = queue & ((UINT64_C(1) << place * BITS) - 1);
    const uint64_t behind = queue >> (place + 1) * BITS << place * BITS;

    return before | behind | (place > 0 ? word & TAKEN : 0);
}

/* ---- waking */

static void
ring(struct turn *turn)
{
    atomic_fetch_add(&turn->bell, 1);
    syscall(SYS_futex, &turn->bell, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Sleeps unless the bell has rung since it was `seen`: 0 or an errno. */
static int
sleep_until(struct turn *turn, uint32_t seen, int64_t deadline)
{
    const struct timespec at = timespec_of(deadline);
    const long slept = syscall(SYS_futex, &turn->bell, FUTEX_WAIT_BITSET, seen, &at, NULL,
                               FUTEX_BITSET_MATCH_ANY);
    return slept < 0 && errno != EAGAIN ? errno : 0;
}

/* ---- a process */

bool
turns_enter(struct turns *turns, unsigned me, const struct turn *wanted, bool only_first)
{
    struct turn *mine = &turns->turns[me - 1];

    for (int look = 0; look < LOOKS; look++) {
        const uint64_t word = word_of(turns);
        const unsigned place = place_of(word, me);
        if (turn_at(word, place) == me) {
            return mine->handle == wanted->handle;
        }
        if ((word & ENDED) != 0 || place == MOST_TURNS || (only_first && place > 0)) {
            return false;
        }
        mine->thread = wanted->thread;
        mine->wait = wanted->wait;
        mine->handle = wanted->handle;
        mine->number = 0;
        if (swing(turns, word, word | (uint64_t)me << place * BITS)) {
            return true;
        }
    }
    return false;
}

int64_t
turns_claim(struct turns *turns, unsigned me)
{
    const uint64_t word = word_of(turns);

    if ((word & ENDED) != 0) {
        return -1;
    }
    if (turn_at(word, 0) != me) {
        return 0;
    }
    const uint64_t number = turns->next;
    if (number > turns->last || number > INT64_MAX || number == 0) {
        return -1;
    }
    turns->next = number + 1;
    turns->turns[me - 1].number = number;
    for (int look = 0; look < LOOKS; look++) { /* others come to its end meanwhile */
        const uint64_t now = word_of(turns);
        if ((now & ENDED) != 0) {
            return -1;
        }
        if (swing(turns, now, now | TAKEN)) {
            return (int64_t)number;
        }
    }
    return -1;
}

int64_t
turns_await(struct turns *turns, unsigned me, int64_t deadline)
{
    struct turn *mine = &turns->turns[me - 1];

    for (;;) {
        const uint32_t seen = atomic_load(&mine->bell);
        const int64_t number = turns_claim(turns, me);
        if (number != 0 || sleep_until(mine, seen, deadline) != 0) {
            return number;
        }
    }
}

bool
turns_leave(struct turns *turns, unsigned me, uint64_t handle)
{
    for (int look = 0; look < LOOKS; look++) {
        const uint64_t word = word_of(turns);
        const unsigned place = place_of(word, me);
        if ((word & ENDED) != 0 || turn_at(word, place) != me ||
            turns->turns[me - 1].handle != handle) {
            return false;
        }
        const uint64_t then = without(word, place);
        if (swing(turns, word, then)) {
            const unsigned next = turn_at(then, 0);
            if (place == 0 && next != 0) {
                ring(&turns->turns[next - 1]);
            }
            return true;
        }
    }
    return false;
}

bool
turns_have_ended(const struct turns *turns)
{
    return (word_of(turns) & ENDED) != 0;
}

/* ---- the leader */

void
turns_begin(struct turns *turns, const struct turn *queue, unsigned count, uint64_t last)
{
    uint64_t word = TAKEN;

    for (unsigned i = 0; i < count; i++) {
        struct turn *turn = &turns->turns[i];
        turn->thread = queue[i].thread;
        turn->wait = queue[i].wait;
        turn->handle = queue[i].handle;
        turn->number = queue[i].number;
        word |= (uint64_t)(i + 1) << i * BITS;
    }
    turns->next = queue[0].number + 1;
    turns->last = last;
    atomic_store_explicit(&turns->word, word, memory_order_release);
}

/* Each turn once, whatever the word says. */
static void
copy_queue(struct turns_found *found, const struct turns *turns, uint64_t word)
{
    unsigned seen = 0;

    found->taken = (word & TAKEN) != 0;
    found->count = 0;
    for (unsigned which; (which = turn_at(word, found->count)) != 0; seen |= 1U << which) {
        if ((seen >> which & 1) != 0) {
            return;
        }
        const struct turn *turn = &turns->turns[which - 1];
        found->which[found->count] = which;
        found->turns[found->count++] = (struct turn){.thread = turn->thread,
                                                     .wait = turn->wait,
                                                     .handle = turn->handle,
                                                     .number = turn->number};
    }
}

void
turns_look(struct turns *turns, bool end, struct turns_found *found)
{
    if (end) {
        const uint64_t before = atomic_fetch_or(&turns->word, ENDED);
        copy_queue(found, turns, before);
        for (unsigned i = 0; i < found->count; i++) {
            ring(&turns->turns[found->which[i] - 1]);
        }
        return;
    }
    for (int look = 0; look < LOOKS; look++) {
        const uint64_t word = word_of(turns);
        copy_queue(found, turns, word);
        atomic_thread_fence(memory_order_acquire);
        if (word_of(turns) == word) {
            return;
        }
    }
}
