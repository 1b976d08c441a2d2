#include "thread_number.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

static _Thread_local uint32_t number; /* 0 until somebody asks */
static _Thread_local bool is_main;

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
        is_main = number == (uint32_t)getpid();
    }
    return number;
}

bool
thread_is_main(void)
{
    return thread_number() != 0 && is_main;
}
