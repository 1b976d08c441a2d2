/* How long a thread may sleep that has to handle signals. */
#ifndef LIBOS_IPC_SIGNAL_LOOK_H
#define LIBOS_IPC_SIGNAL_LOOK_H

#include <stdint.h>

/* Until when this thread may sleep that would sleep until `deadline` (of clock.h) and handles signals:
 * a signal that comes between the last look and the sleep does not end the sleep. Python handles
 * signals in the main thread; so that one looks again soon after, and then less and less often,
 * and others sleep on. `pause` is 0 before the first sleep of a wait, and again after a signal. */
int64_t until_next_look(int64_t deadline, int64_t *pause);

#endif
