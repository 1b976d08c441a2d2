#define _GNU_SOURCE /* syscall, sched_getcpu */

#include "bell.h"

#include "clock.h"
#include "processor.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Looks in vain after which there is no sense in them. */
enum { MOST_VAIN = 3 };

static void
wake(struct bell *bell, uint32_t who)
{
    atomic_fetch_add(&bell->count, 1);
    syscall(SYS_futex, &bell->count, FUTEX_WAKE_BITSET, 1, NULL, NULL, who);
}

static void
set_bit(struct bell *bell, unsigned line)
{
    atomic_fetch_or(&bell->rung[line / 64 % BELL_WORDS], UINT64_C(1) << line % 64);
}

void
bell_ring(struct bell *bell, unsigned line)
{
    atomic_store_explicit(&bell->ringer, processor_here(), memory_order_relaxed);
    set_bit(bell, line);
    uint32_t state = atomic_load(&bell->state);
    if ((state & (BELL_DRAINING | BELL_AWAKE)) != 0) {
        return;
    }
    if ((state & BELL_SEAT) != 0) {
        wake(bell, BELL_SEAT);
        /* It is awake, if it is the same sleep still: what else is rung until it runs need not wake it
         * again. Only now: we may be killed at any point. */
        atomic_compare_exchange_strong(&bell->state, &state,
                                       (state & ~(uint32_t)BELL_SEAT) | BELL_AWAKE);
    } else if ((state & BELL_PORTER) != 0) {
        wake(bell, BELL_PORTER);
    }
}

void
bell_nudge(struct bell *bell, uint32_t who)
{
    wake(bell, who);
}

bool
bell_is_rung(const struct bell *bell)
{
    for (unsigned i = 0; i < BELL_WORDS; i++) {
        if (atomic_load(&bell->rung[i]) != 0) {
            return true;
        }
    }
    return false;
}

bool
bell_is_left(const struct bell *bell)
{
    const uint32_t state = atomic_load(&bell->state);
    return bell_is_rung(bell) && (state & (BELL_DRAINING | BELL_AWAKE)) == 0;
}

/* Whether who rang last did it on another processor. */
static bool
is_rung_elsewhere(const struct bell *bell)
{
    const uint32_t ringer = atomic_load_explicit(&bell->ringer, memory_order_relaxed);

    return ringer != 0 && ringer != processor_here();
}

/* Looks without sleeping. Whether there is something to look at. */
static bool
look(const struct bell *bell, int64_t until, uint32_t seen)
{
    do {
        for (int i = 0; i < LOOKS_PER_GLANCE; i++) {
            if (bell_is_rung(bell) || atomic_load(&bell->count) != seen) {
                return true;
            }
            processor_pause();
        }
    } while (now_ns() < until);
    return false;
}

/* The same before a sleep. */
static bool
look_once_more(const struct bell *bell, struct looks *looks, uint32_t seen)
{
    const bool found = look(bell, now_ns() + looks->ns, seen);

    looks->vain = found ? 0 : looks->vain + 1;
    return found;
}

bool
bell_glance(const struct bell *bell, int64_t until, uint32_t seen)
{
    return is_rung_elsewhere(bell) && look(bell, until, seen) && bell_is_rung(bell);
}

/* Changes bits of the state in one step. What it was. */
static uint32_t
change_state(struct bell *bell, uint32_t off, uint32_t on)
{
    uint32_t state = atomic_load_explicit(&bell->state, memory_order_relaxed);

    while (!atomic_compare_exchange_weak(&bell->state, &state, (state & ~off) | on)) {
    }
    return state;
}

/* Is about to sleep as `who`, and awake no more. Each sleep has a number, lest a ringer that was slow
 * takes the next one for that which it has ended. */
static void
fall_asleep(struct bell *bell, uint32_t who, uint32_t awake)
{
    uint32_t state = atomic_load_explicit(&bell->state, memory_order_relaxed);

    while (!atomic_compare_exchange_weak(&bell->state, &state,
                                         ((state & ~awake) | who) + BELL_ONE_SLEEP)) {
    }
}

/* Sleeps until the count is not `seen` any more; never is no time to set an alarm for. */
static int
sleep_on(struct bell *bell, uint32_t who, int64_t deadline, uint32_t seen)
{
    const struct timespec at = timespec_of(deadline);
    const long slept = syscall(SYS_futex, &bell->count, FUTEX_WAIT_BITSET, seen,
                               deadline == INT64_MAX ? NULL : &at, NULL, who);
    return slept >= 0 || errno == EAGAIN ? 0 : errno;
}

/* Sleeps on the count, as `sleep_on`, and sees whether to look would have done. */
static int
sleep_unseen(struct bell *bell, uint32_t who, int64_t deadline, struct looks *looks, uint32_t seen)
{
    const int64_t from = now_ns();
    const int found = sleep_on(bell, who, deadline, seen);

    if (now_ns() - from < looks->ns) {
        looks->vain = 0;
    }
    return found;
}

int
bell_sleep(struct bell *bell, uint32_t who, int64_t deadline, struct looks *looks,
           uint32_t *seen)
{
    /* Awake until it has looked for long enough: so nobody rings in vain, or calls the kernel. */
    const uint32_t awake = who == BELL_SEAT ? BELL_AWAKE : 0;
    const uint32_t before = awake == 0 ? 0 : change_state(bell, 0, awake);
    const bool may_look = looks != NULL && looks->ns > 0 && is_rung_elsewhere(bell);
    const bool hopeless = may_look && looks->vain >= MOST_VAIN;
    int found = 0;

    if (may_look && !hopeless && look_once_more(bell, looks, *seen)) {
        if ((before & awake) != awake) {
            change_state(bell, awake, 0);
        }
        *seen = atomic_load(&bell->count);
        return 0;
    }
    fall_asleep(bell, who, awake);
    /* What an awake seat will look at is not the porter's. */
    if (!(who == BELL_SEAT ? bell_is_rung(bell) : bell_is_left(bell))) {
        found = hopeless ? sleep_unseen(bell, who, deadline, looks, *seen)
                         : sleep_on(bell, who, deadline, *seen);
    }
    change_state(bell, who | awake, before & awake);
    *seen = atomic_load(&bell->count);
    return found;
}

void
bell_sit(struct bell *bell)
{
    atomic_fetch_or(&bell->state, BELL_AWAKE);
}

bool
bell_stand(struct bell *bell)
{
    atomic_fetch_and(&bell->state, ~(uint32_t)BELL_AWAKE);
    return bell_is_rung(bell);
}

static bool
take_bits(struct bell *bell, uint64_t lines[BELL_WORDS])
{
    bool any = false;
    for (unsigned i = 0; i < BELL_WORDS; i++) {
        lines[i] = atomic_load(&bell->rung[i]) == 0 ? 0 : atomic_exchange(&bell->rung[i], 0);
        any = any || lines[i] != 0;
    }
    return any;
}

bool
bell_collect(struct bell *bell, uint64_t lines[BELL_WORDS])
{
    return take_bits(bell, lines);
}

bool
bell_take(struct bell *bell, uint64_t lines[BELL_WORDS])
{
    atomic_fetch_or(&bell->state, BELL_DRAINING);
    if (take_bits(bell, lines)) {
        return true;
    }
    /* From here on ringers wake again; who has seen the flag just before has set its bit. */
    atomic_fetch_and(&bell->state, ~(uint32_t)BELL_DRAINING);
    if (!bell_is_rung(bell)) {
        return false;
    }
    atomic_fetch_or(&bell->state, BELL_DRAINING);
    if (take_bits(bell, lines)) {
        return true;
    }
    atomic_fetch_and(&bell->state, ~(uint32_t)BELL_DRAINING);
    return false;
}

void
bell_rest(struct bell *bell)
{
    atomic_fetch_and(&bell->state, ~(uint32_t)BELL_DRAINING);
}

void
bell_again(struct bell *bell, unsigned line)
{
    set_bit(bell, line);
}
