/* The kernel's number of the running thread, asked for once per thread: asking costs as much as a
 * lock. A forked child begins with its parent's, and asks again. Neither call blocks. */
#ifndef LIBOS_IPC_THREAD_NUMBER_H
#define LIBOS_IPC_THREAD_NUMBER_H

#include "native.h"

/* Once per module. -1 with OSError. */
int thread_number_setup(void);

/* Not 0. */
uint32_t thread_number(void);

/* Until when this thread may sleep that would sleep until `deadline` (of clock.h) and handles signals:
 * a signal that comes between the last look and the sleep does not end the sleep. Python handles
 * signals in the main thread; so that one looks again soon after, and then less and less often,
 * and others sleep on. `pause` is 0 before the first sleep of a wait. */
int64_t until_next_look(int64_t deadline, int64_t *pause);

#endif
