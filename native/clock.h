/* Time, as time.monotonic() counts it, in nanoseconds. INT64_MAX is never. */
#ifndef LIBOS_IPC_CLOCK_H
#define LIBOS_IPC_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_S INT64_C(1000000000)

static inline int64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* The same, up to some milliseconds ago, for a third of the price: as of the kernel's last tick. */
static inline int64_t
recent_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static inline struct timespec
timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

/* Seconds of Python as nanoseconds, within 0 … never. */
static inline int64_t
ns_of(double seconds)
{
    if (!(seconds > 0)) {
        return 0;
    }
    return seconds < 9e9 ? (int64_t)(seconds * NS_PER_S) : INT64_MAX;
}

static inline int64_t
after_seconds(double seconds)
{
    const int64_t left = ns_of(seconds);
    const int64_t now = now_ns();
    return left < INT64_MAX - now ? now + left : INT64_MAX;
}

#endif
