/* Sleeper: the word on which one thread of this process sleeps until it is called; 0 while it is not.
 *
 * Needs no interpreter lock. A word may be woken though its owner is gone: whoever sleeps there now
 * looks, and sleeps on.
 */
#ifndef LIBOS_IPC_SLEEPER_H
#define LIBOS_IPC_SLEEPER_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint32_t sleeper;

/* What a watchful sleeper looks at: when something began last, first after so long and then every so often. */
struct watch {
    const _Atomic int64_t *began;
    int64_t first_ns;
    int64_t every_ns;
};

/* Sleeps until the word is not 0, at the latest until `deadline` (of clock.h); with a `watch` that is not NULL
 * also until a look finds that nothing has begun for `every_ns`. 0, or an errno: ETIMEDOUT, EINTR. Blocks. */
int sleeper_sleep(sleeper *called, int64_t deadline, const struct watch *watch);

/* Wakes the thread. The word has been set. */
void sleeper_wake(sleeper *called);

#endif
