/* The kernel's number of the running thread, asked for once per thread: asking costs as much as a
 * lock. A forked child begins with its parent's, and asks again. Neither call blocks. */
#ifndef LIBOS_IPC_THREAD_NUMBER_H
#define LIBOS_IPC_THREAD_NUMBER_H

#include "native.h"

/* Once per module. -1 with OSError. */
int thread_number_setup(void);

/* Not 0. */
uint32_t thread_number(void);

/* Whether it is the process's main thread, to the kernel. */
bool thread_is_main(void);

#endif
