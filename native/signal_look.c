#define _GNU_SOURCE /* the clock */

#include "signal_look.h"

#include "clock.h"
#include "thread_number.h"

int64_t
until_next_look(int64_t deadline, int64_t *pause)
{
    static const int64_t first_ns = NS_PER_S / 50;

    if (!thread_is_main()) {
        return deadline;
    }
    const int64_t now = now_ns();
    *pause = *pause == 0 ? first_ns : *pause < INT64_MAX / 4 ? *pause * 2 : *pause;
    return *pause < deadline - now ? now + *pause : deadline;
}
