#define _GNU_SOURCE /* the clock */

#include "vigil.h"

#include "clock.h"

#include <errno.h>

/* Between two looks; how soon one handler follows another that makes a vigil worth while; and after
 * how many looks without any handler it is over: soon, as a hundred members that look for nothing take
 * the processors from each other, and to begin anew costs one call. */
static const int64_t LOOK_NS = 2000000;
static const int64_t CLOSELY_NS = 1000000;
enum { QUIET_LOOKS = 5 };

/* Handlers that followed closely count up to so many, and a pause takes so many off: that one of them
 * began late, since another process had the processor in between, ends no stream. */
enum { MOST_CLOSE = 64, PAUSE = 16 };

/* Looks that find the same handler, after which it is a long one: in a stream it may be without the
 * processor for a slice of the scheduler's. */
enum { STUCK_LOOKS = 1, STUCK_LOOKS_IN_STREAM = 3 };

void
vigil_call(struct vigil *vigil)
{
    atomic_store(&vigil->called, true);
    bell_nudge(vigil->bell, BELL_PORTER);
}

/* Whether a handler that begins now follows others so closely that a vigil is worth while. */
static bool
follows_closely(struct vigil *vigil)
{
    const int64_t now = now_ns();
    const bool closely = now - vigil->left_at < CLOSELY_NS;

    vigil->left_at = now;
    unsigned close = atomic_load_explicit(&vigil->close, memory_order_relaxed);
    if (closely) {
        close += close < MOST_CLOSE;
    } else {
        close -= close < PAUSE ? close : PAUSE;
    }
    atomic_store_explicit(&vigil->close, close, memory_order_relaxed);
    return closely || close > 0;
}

void
vigil_leave(struct vigil *vigil)
{
    const bool closely = follows_closely(vigil);

    atomic_fetch_add(&vigil->inside, 1);
    atomic_fetch_add(&vigil->steps, 1);
    if (closely) {
        /* It is kept from now on, also by a porter who is just awake for something else, and has not
         * been woken for this: it looks how long it may sleep before it does. */
        if (!atomic_exchange(&vigil->kept, true)) {
            bell_nudge(vigil->bell, BELL_PORTER);
        }
    } else if (bell_stand(vigil->bell)) {
        vigil_call(vigil);
    }
}

void
vigil_return(struct vigil *vigil)
{
    atomic_fetch_sub(&vigil->inside, 1);
    atomic_fetch_add(&vigil->steps, 1);
}

/* How many looks without a change are one too many. */
static unsigned
patience(struct vigil *vigil, bool inside)
{
    const bool stream =
        atomic_load_explicit(&vigil->close, memory_order_relaxed) >= MOST_CLOSE - PAUSE;

    return !inside ? QUIET_LOOKS : stream ? STUCK_LOOKS_IN_STREAM : STUCK_LOOKS;
}

/* A look at the handlers, which had come to `steps` at the last one. Whether to look again. */
static bool
look(struct vigil *vigil, uint32_t *steps, unsigned *quiet)
{
    const uint32_t now = atomic_load(&vigil->steps);
    const bool moved = now != *steps;

    *steps = now;
    *quiet = moved ? 0 : *quiet + 1;
    if (moved || *quiet < patience(vigil, atomic_load(&vigil->inside) > 0)) {
        return true;
    }
    /* Either we see the handler that begins now, or who calls it sees that we do not look. */
    atomic_store(&vigil->kept, false);
    if (atomic_load(&vigil->steps) == now) {
        return false;
    }
    atomic_store(&vigil->kept, true);
    return true;
}

int
vigil_sleep(struct vigil *vigil, int64_t deadline)
{
    const int64_t latest = now_ns() + BELL_LONGEST_SLEEP_NS;
    const int64_t until = deadline < latest ? deadline : latest;
    uint32_t steps = atomic_load(&vigil->steps);
    unsigned quiet = 0;

    for (;;) {
        const bool keeping = atomic_load(&vigil->kept);
        const int64_t next = now_ns() + LOOK_NS;
        const int found = bell_sleep(vigil->bell, BELL_PORTER,
                                     keeping && next < until ? next : until, NULL, &vigil->seen);
        if (atomic_exchange(&vigil->called, false)) {
            return 0;
        }
        if (found == EINTR || bell_is_left(vigil->bell) || now_ns() >= until) {
            return found;
        }
        if (!keeping) {
            steps = atomic_load(&vigil->steps);
            quiet = 0;
            atomic_store(&vigil->kept, true);
        } else if (found == ETIMEDOUT && !look(vigil, &steps, &quiet) &&
                   bell_stand(vigil->bell)) {
            return 0;
        }
    }
}
