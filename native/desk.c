#define _GNU_SOURCE /* syscall, sched_getcpu */

#include "desk.h"

#include "clock.h"
#include "processor.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void
wake(struct desk *desk)
{
    syscall(SYS_futex, &desk->answered, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void
put(_Atomic uint64_t to[DESK_WORDS], const unsigned char message[DESK_MESSAGE])
{
    uint64_t words[DESK_WORDS] = {0};

    memcpy(words, message, DESK_MESSAGE);
    for (int i = 0; i < DESK_WORDS; i++) {
        atomic_store_explicit(&to[i], words[i], memory_order_relaxed);
    }
}

static void
get(const _Atomic uint64_t from[DESK_WORDS], unsigned char message[DESK_MESSAGE])
{
    uint64_t words[DESK_WORDS];

    for (int i = 0; i < DESK_WORDS; i++) {
        words[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
    }
    memcpy(message, words, DESK_MESSAGE);
}

void
desk_ask(struct desk *desk, uint32_t turn, const unsigned char question[DESK_MESSAGE])
{
    put(desk->question, question);
    atomic_store_explicit(&desk->asked, turn, memory_order_release);
}

uint32_t
desk_answered(const struct desk *desk)
{
    return atomic_load_explicit(&desk->answered, memory_order_acquire);
}

void
desk_read(const struct desk *desk, unsigned char answer[DESK_MESSAGE])
{
    get(desk->answer, answer);
}

/* Looks, for a while, without sleeping. */
static void
spin_for(const struct desk *desk, uint32_t seen, int64_t spin)
{
    const uint32_t clerk = atomic_load_explicit(&desk->processor, memory_order_relaxed);

    if (spin <= 0 || clerk == 0 || clerk == processor_here()) {
        return;
    }
    const int64_t until = now_ns() + spin;
    do {
        for (int i = 0; i < LOOKS_PER_GLANCE; i++) {
            if (desk_answered(desk) != seen) {
                return;
            }
            processor_pause();
        }
    } while (now_ns() < until);
}

int
desk_await(struct desk *desk, uint32_t seen, int64_t deadline, int64_t spin)
{
    const struct timespec at = timespec_of(deadline);
    int found = 0;

    spin_for(desk, seen, spin);
    if (desk_answered(desk) != seen) {
        return 0;
    }
    /* Either the clerk sees that we sleep, or the kernel sees that the turn has changed. */
    atomic_store(&desk->asleep, 1);
    if (syscall(SYS_futex, &desk->answered, FUTEX_WAIT_BITSET, seen, &at, NULL,
                FUTEX_BITSET_MATCH_ANY) < 0) {
        found = errno == EAGAIN ? 0 : errno;
    }
    atomic_store_explicit(&desk->asleep, 0, memory_order_relaxed);
    return found;
}

void
desk_abandon(struct desk *desk)
{
    atomic_fetch_xor(&desk->answered, UINT32_C(1) << 31);
    wake(desk);
}

bool
desk_take(const struct desk *desk, uint32_t *turn, unsigned char question[DESK_MESSAGE])
{
    const uint32_t asked = atomic_load_explicit(&desk->asked, memory_order_acquire);

    if (asked == *turn) {
        return false;
    }
    get(desk->question, question);
    *turn = asked;
    return true;
}

void
desk_answer(struct desk *desk, uint32_t turn, const unsigned char answer[DESK_MESSAGE])
{
    put(desk->answer, answer);
    atomic_store_explicit(&desk->processor, processor_here(), memory_order_relaxed);
    atomic_store(&desk->answered, turn);
    if (atomic_load(&desk->asleep) != 0) {
        wake(desk);
    }
}
