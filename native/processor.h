/* The processor that a thread runs on, and how it waits on it without giving it up. */
#ifndef LIBOS_IPC_PROCESSOR_H
#define LIBOS_IPC_PROCESSOR_H

#include <sched.h> /* sched_getcpu: the includer defines _GNU_SOURCE */
#include <stdint.h>

enum { LOOKS_PER_GLANCE = 20 }; /* while spinning, between looks at the clock */

/* Counted from 1. */
static inline uint32_t
processor_here(void)
{
    return (uint32_t)sched_getcpu() + 1;
}

static inline void
processor_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
