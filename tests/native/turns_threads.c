/* Turns between threads, without Python: for the thread sanitizer.
 *
 * Each thread stands for a process: it takes its turn, counts what all count without any other lock,
 * and leaves; now and then it leaves the queue without having had its turn. Ends with 0 if all is well.
 */
#define _GNU_SOURCE /* the clock */

#include "turns.h"

#include "clock.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>

enum { THREADS = 4, ROUNDS = 20000, IMPATIENT_ONE_IN = 16, PATIENCE_NS = 20000 };

static struct turns turns;
static uint64_t had;  /* by whoever's turn it is */
static int64_t last = 1;

/* Whether it was its turn. */
static bool
take_turn(unsigned me, uint64_t handle, int64_t patience_ns)
{
    const struct turn wanted = {.handle = handle, .thread = me, .wait = 1};
    int64_t number;

    assert(turns_enter(&turns, me, &wanted, false));
    do {
        number = turns_await(&turns, me, now_ns() + patience_ns);
        assert(number >= 0);
    } while (number == 0 && patience_ns > PATIENCE_NS);
    if (number > 0) {
        assert(number > last);
        last = number;
        had++;
    }
    assert(turns_leave(&turns, me, handle));
    assert(!turns_leave(&turns, me, handle));
    return number > 0;
}

static void *
take_turns(void *number)
{
    const unsigned me = *(const unsigned *)number;
    uint64_t mine = 0;

    for (uint64_t round = 1; round <= ROUNDS; round++) {
        const bool impatient = round % IMPATIENT_ONE_IN == me;
        mine += take_turn(me, me * UINT64_C(1000000) + round, impatient ? PATIENCE_NS : NS_PER_S);
    }
    return (void *)(uintptr_t)mine;
}

int
main(void)
{
    static const unsigned numbers[THREADS] = {1, 2, 3, 4};
    const struct turn first = {.handle = 1, .number = 1};
    pthread_t threads[THREADS];
    uint64_t all = 0;

    turns_begin(&turns, &first, 1, UINT32_MAX);
    assert(turns_leave(&turns, 1, 1));
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, take_turns, (void *)&numbers[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        void *mine;
        pthread_join(threads[i], &mine);
        all += (uintptr_t)mine;
    }
    struct turns_found found;
    turns_look(&turns, true, &found);
    assert(found.count == 0 && !found.taken && turns_have_ended(&turns));
    assert(all == had && had >= THREADS * ROUNDS / IMPATIENT_ONE_IN * (IMPATIENT_ONE_IN - 1));
    printf("%llu turns, one at a time\n", (unsigned long long)had);
    return 0;
}
