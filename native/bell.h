/* A bell: what wakes a process to which others write, and tells it which of them did.
 *
 * Everybody who writes to a process has its bell mapped, and a number there, its *line*. To ring
 * is to set the line's bit, to move the count on, and to wake whoever sleeps on the count; it costs
 * a system call only if somebody sleeps, and no thread is woken while one is at work that will
 * look again before it stops (DRAINING, AWAKE).
 *
 *     ringer:  publish -> bit -> count -> is anybody asleep? -> wake
 *     sleeper: count -> asleep -> any bit? -> sleep unless the count has moved
 *
 * So either the ringer sees the sleeper, or the sleeper sees the bit. Sleepers are of two kinds:
 * the SEAT is woken rather than the PORTER, who is there when nobody sits. Who has woken the SEAT
 * enters that it is awake, since it may be long before it runs, if the ringer has its processor: a
 * stream of messages would call the kernel for each until then.
 *
 * A process that has the bell mapped can spoil it for others of its group: it can take their rings
 * away, or ring without end. Therefore the porter, who looks everywhere then, never sleeps for longer
 * than BELL_LONGEST_SLEEP_NS; who has written what is not read rings again (`Lane.remind`); and bits
 * are a hint: what is read at a line is checked where it lies.
 */
#ifndef LIBOS_IPC_BELL_H
#define LIBOS_IPC_BELL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BELL_LONGEST_SLEEP_NS INT64_C(5000000000)

enum { BELL_LINES = 1024, BELL_WORDS = BELL_LINES / 64 };

/* Who sleeps, as bits of `state`; and who is awake and will look before it sleeps. */
enum { BELL_SEAT = 1, BELL_PORTER = 2, BELL_DRAINING = 4, BELL_AWAKE = 8 };

/* Above these bits `state` counts the sleeps, round and round. */
enum { BELL_ONE_SLEEP = 256 };

/* In shared memory, zeroed to begin with. */
struct bell {
    _Alignas(64) _Atomic uint32_t count;
    _Atomic uint32_t state;
    _Atomic uint32_t ringer; /* the processor on which it was rung last, counted from 1 */
    _Alignas(64) _Atomic uint64_t rung[BELL_WORDS];
};

/* From any process: something has been published at this line. */
void bell_ring(struct bell *bell, unsigned line);

/* From any thread of the owner: wake the one that sleeps as `who`, though nothing was rung. */
void bell_nudge(struct bell *bell, uint32_t who);

/* How long a sleeper looks before it sleeps, and how often in a row that was in vain. Memory of its own. */
struct looks {
    int64_t ns;
    unsigned vain;
};

/* The owner: sleep as `who` until the bell rings or is nudged, at the latest until `deadline`, in
 * nanoseconds of CLOCK_MONOTONIC; without an alarm, which costs the kernel a quarter of a microsecond, if
 * that is INT64_MAX. 0, or an errno: ETIMEDOUT, EINTR. Blocks. `seen` is what was seen of the count: who
 * was nudged since the sleep before does not sleep. One thread per `who`. With `looks` it looks for a
 * while before it sleeps, if who rang last did it on another processor: on the same one it would only
 * keep that process from ringing again. Not after some looks in vain, until a sleep was so short that a
 * look would have done: a hundred members that look for nothing take the processors from each other. */
int bell_sleep(struct bell *bell, uint32_t who, int64_t deadline, struct looks *looks,
               uint32_t *seen);

/* The owner: looks until then, if who rang last did it on another processor, and does not sleep. Whether
 * something was rung. */
bool bell_glance(const struct bell *bell, int64_t until, uint32_t seen);

/* The owner: who has the seat is awake, and will look before it sleeps: until `bell_stand` nobody is
 * woken, but by `bell_nudge`. True if something was rung that it is to look at. Not for long. */
void bell_sit(struct bell *bell);
bool bell_stand(struct bell *bell);

/* The owner: something was rung. */
bool bell_is_rung(const struct bell *bell);

/* The owner: something was rung, and nobody is awake who will look. */
bool bell_is_left(const struct bell *bell);

/* The owner: which lines were rung, and forget it. While there are any, nobody is woken; who has
 * been given some must ask again until there are none. One thread at a time. */
bool bell_take(struct bell *bell, uint64_t lines[BELL_WORDS]);

/* The owner: the same where nobody else looks, and who looks sleeps afterwards, by `bell_sleep`: who
 * rings meanwhile finds nobody to wake, and is seen then. */
bool bell_collect(struct bell *bell, uint64_t lines[BELL_WORDS]);

/* The owner: who has been given some will not ask again now, although there may be more. */
void bell_rest(struct bell *bell);

/* From any process: a line is to be looked at, by whoever looks next; nobody is woken for it. */
void bell_again(struct bell *bell, unsigned line);

#endif
