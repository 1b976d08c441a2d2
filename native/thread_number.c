#include "thread_number.h"

#include "clock.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

static _Thread_local uint32_t number; /* 0 until somebody asks */

static void
forget(void)
{
    number = 0;
}

int
thread_number_setup(void)
{
    const int failed = pthread_atfork(NULL, NULL, forget);
    if (failed != 0) {
        errno = failed;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

uint32_t
thread_number(void)
{
    if (number == 0) {
        number = (uint32_t)PyThread_get_thread_native_id();
    }
    return number;
}

int64_t
until_next_look(int64_t deadline, int64_t *pause)
{
    static const int64_t first_ns = NS_PER_S / 50;

    if (thread_number() != (uint32_t)getpid()) {
        return deadline;
    }
    const int64_t now = now_ns();
    *pause = *pause == 0 ? first_ns : *pause < INT64_MAX / 4 ? *pause * 2 : *pause;
    return *pause < deadline - now ? now + *pause : deadline;
}
