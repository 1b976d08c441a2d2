/* A sleeper that looks before it sleeps, and gives that up when it was in vain.
 *
 * Alone, with a bell that was rung by a processor that does not exist, so that looking is allowed. Ends
 * with 0 if some looks in vain are the last, if a sleep shorter than a look brings them back, and if what
 * is rung is seen either way; and if nobody is looked for who rang on the sleeper's own processor.
 */
#define _GNU_SOURCE

#include "bell.h"
#include "clock.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>

enum { LINE = 5, NOWHERE = 1 << 20, SHORT_NS = 100000, LOOK_NS = 20000000, LONG_NS = 30000000 };

static struct bell bell;
static uint32_t seen;

/* Sleeps for so long, at the least. */
static void
sleep_for(struct looks *looks, int64_t ns)
{
    const int64_t until = now_ns() + ns;

    atomic_store(&bell.ringer, NOWHERE);
    assert(bell_sleep(&bell, BELL_SEAT, until, looks, &seen) == ETIMEDOUT);
    assert(now_ns() >= until);
}

static void
hear(struct looks *looks)
{
    uint64_t lines[BELL_WORDS];

    bell_ring(&bell, LINE);
    atomic_store(&bell.ringer, NOWHERE);
    assert(bell_sleep(&bell, BELL_SEAT, INT64_MAX, looks, &seen) == 0);
    assert(bell_take(&bell, lines) && lines[0] == 1 << LINE);
    assert(!bell_take(&bell, lines));
}

/* A ringer that shares the processor could not ring while we look. */
static void
sleep_beside_the_ringer(const struct looks *looks)
{
    struct looks none = {.ns = looks->ns};
    uint64_t lines[BELL_WORDS];
    cpu_set_t here;

    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    assert(sched_setaffinity(0, sizeof here, &here) == 0);
    bell_ring(&bell, LINE);
    assert(bell_take(&bell, lines) && !bell_take(&bell, lines));
    assert(bell_sleep(&bell, BELL_SEAT, now_ns() + LONG_NS, &none, &seen) == ETIMEDOUT);
    assert(none.vain == 0);
}

int
main(void)
{
    struct looks looks = {.ns = LOOK_NS};
    unsigned given_up = 0;

    while (looks.vain == given_up) {
        sleep_for(&looks, LONG_NS);
        given_up++;
        assert(given_up < 10);
    }
    given_up--;
    assert(given_up > 0 && looks.vain == given_up);
    hear(&looks);
    assert(looks.vain == given_up);
    sleep_for(&looks, SHORT_NS);
    assert(looks.vain == 0);
    hear(&looks);
    sleep_for(&looks, LONG_NS);
    assert(looks.vain == 1);
    sleep_beside_the_ringer(&looks);
    printf("given up after %u looks in vain\n", given_up);
    return 0;
}
