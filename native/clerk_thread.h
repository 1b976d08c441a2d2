/* The clerk's thread: it answers what is asked at desks, until it is ended. Plain C.
 *
 * It shares with the rest of its process nothing but the table of desks, under a lock of its own, which
 * is never held for longer than it takes to look at the desks that were rung.
 *
 * A process that was forked without being told has a copy of all this, without the thread, and with
 * locks in whatever state other threads had them. The first call there makes them anew; it is one
 * thread's alone, which the caller sees to by `clerk_thread_settle` where there may be more.
 *
 * Any thread may call anything, at once. What blocks is said.
 */
#ifndef LIBOS_IPC_CLERK_THREAD_H
#define LIBOS_IPC_CLERK_THREAD_H

#include "desk.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A desk that is served; all zero for none. */
struct place {
    struct desk *desk;
    uint32_t turn; /* of the question answered last */
    void *owner;   /* whoever keeps the desk's memory; the caller's business */
};

/* Zero but for the reception and how long it looks, and then begun with `clerk_thread_init`. */
struct clerk_thread {
    struct reception *reception; /* of this process */
    struct looks looks;          /* of the thread */
    _Atomic pid_t process;       /* of the thread, and of whoever holds the locks */
    pthread_mutex_t life;        /* held while the thread is made, and until it is gone */
    _Atomic bool wanted;
    _Atomic bool running;
    _Atomic bool stopping;
    pthread_t thread;
    _Atomic pid_t number;  /* the thread's in the kernel */
    pthread_mutex_t table; /* of the rest */
    size_t room;
    struct place *at; /* by line of the bell */
};

void clerk_thread_init(struct clerk_thread *clerk);

/* After the end. What `at` was is the caller's. */
void clerk_thread_destroy(struct clerk_thread *clerk);

/* The first call in a forked process, if there was none yet; nothing else. */
void clerk_thread_settle(struct clerk_thread *clerk);

/* Whether there is a thread, in this process. */
bool clerk_thread_is_running(struct clerk_thread *clerk);

/* There is to be a thread; `begin` makes it. */
void clerk_thread_want(struct clerk_thread *clerk);

/* Have one, if it is wanted and there is none. Where the system has none for us, what is asked comes by
 * messages. Blocks while another thread ends it. */
void clerk_thread_begin(struct clerk_thread *clerk);

/* There is to be none any more. When this returns it is gone, for the kernel too, whoever ends it; none
 * is begun after that but for who wants it anew. Blocks. */
void clerk_thread_end(struct clerk_thread *clerk);

/* Have a table of this size, zero at first, in place of a smaller one, which is given back: what was in
 * it is in this one now. */
struct place *clerk_thread_grow(struct clerk_thread *clerk, struct place *at, size_t room);

/* Put this in a place of the table: what was there. */
struct place clerk_thread_set(struct clerk_thread *clerk, size_t line, struct place place);

#endif
