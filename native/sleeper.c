#define _GNU_SOURCE /* syscall */

#include "sleeper.h"

#include "clock.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Sleeps until called, or something else happened: 0 or an errno. */
static int
sleep_until(sleeper *called, int64_t deadline)
{
    const struct timespec at = timespec_of(deadline);
    const long slept = syscall(SYS_futex, called, FUTEX_WAIT_BITSET_PRIVATE, 0,
                               deadline == INT64_MAX ? NULL : &at, NULL, FUTEX_BITSET_MATCH_ANY);
    return slept < 0 && errno != EAGAIN ? errno : 0;
}

/* The same, but not beyond the time at which no turn has begun for too long. */
static int
sleep_watchfully(sleeper *called, int64_t deadline, const struct watch *watch)
{
    int64_t look_at = now_ns() + watch->first_ns;

    for (;;) {
        const int found = sleep_until(called, look_at < deadline ? look_at : deadline);
        if (found != ETIMEDOUT || look_at >= deadline) {
            return found;
        }
        const int64_t now = now_ns();
        if (now - atomic_load(watch->began) >= watch->every_ns) {
            return ETIMEDOUT;
        }
        look_at = now + watch->every_ns;
    }
}

int
sleeper_sleep(sleeper *called, int64_t deadline, const struct watch *watch)
{
    return watch == NULL ? sleep_until(called, deadline) : sleep_watchfully(called, deadline, watch);
}

void
sleeper_wake(sleeper *called)
{
    syscall(SYS_futex, called, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
