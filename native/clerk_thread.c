#define _GNU_SOURCE /* gettid, tgkill, sigset */

#include "clerk_thread.h"

#include "clock.h"
#include "packing.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK_BYTES = 1 << 16, RESP = 0, PING = 57 };

/* How long the kernel may take to forget a thread that has ended. */
static const int64_t FORGET_NS = INT64_C(10) * NS_PER_S;

/* ---- the thread */

/* Whether the clerk knows the answer to this, and what it is. */
static bool
know(const unsigned char *question, unsigned char *answer)
{
    const unsigned char *head = question + ENVELOPE_SIZE;
    const uint64_t number = load_u64(question);
    const uint64_t size = load_u64(head);
    const uint64_t seq = load_u64(head + 8);

    if (number != 0 || size != HEADER_SIZE || seq == 0 || head[16] != PING) {
        return false;
    }
    store_envelope(answer, &(struct envelope){0, 0});
    store_header(answer + ENVELOPE_SIZE,
                 &(struct header){.size = HEADER_SIZE, .seq = seq, .code = RESP});
    return true;
}

static void
look_at(struct place *place)
{
    unsigned char question[DESK_MESSAGE];
    unsigned char answer[DESK_MESSAGE];

    if (place->desk != NULL && desk_take(place->desk, &place->turn, question) &&
        know(question, answer)) {
        desk_answer(place->desk, place->turn, answer);
    }
}

static void
look_at_rung(struct clerk_thread *clerk, const uint64_t lines[BELL_WORDS])
{
    pthread_mutex_lock(&clerk->table);
    for (unsigned word = 0; word < BELL_WORDS && word * 64 < clerk->room; word++) {
        for (uint64_t left = lines[word]; left != 0; left &= left - 1) {
            const size_t line = word * 64 + (size_t)__builtin_ctzll(left);
            if (line < clerk->room) {
                look_at(&clerk->at[line]);
            }
        }
    }
    pthread_mutex_unlock(&clerk->table);
}

static void *
work(void *argument)
{
    struct clerk_thread *clerk = argument;
    struct bell *bell = &clerk->reception->bell;
    uint32_t seen = atomic_load(&bell->count);
    uint64_t lines[BELL_WORDS];

    atomic_store(&clerk->number, (pid_t)syscall(SYS_gettid));
    while (!atomic_load(&clerk->stopping)) {
        if (bell_collect(bell, lines)) {
            look_at_rung(clerk, lines);
        }
        bell_sleep(bell, BELL_PORTER, INT64_MAX, &clerk->looks, &seen);
    }
    return NULL;
}

/* ---- its life */

void
clerk_thread_init(struct clerk_thread *clerk)
{
    pthread_mutex_init(&clerk->life, NULL);
    pthread_mutex_init(&clerk->table, NULL);
    atomic_store(&clerk->process, getpid());
}

void
clerk_thread_destroy(struct clerk_thread *clerk)
{
    pthread_mutex_destroy(&clerk->life);
    pthread_mutex_destroy(&clerk->table);
}

/* In a forked child there is no thread, and nobody who holds a lock. */
void
clerk_thread_settle(struct clerk_thread *clerk)
{
    const pid_t here = getpid();

    if (atomic_load(&clerk->process) != here) {
        pthread_mutex_init(&clerk->life, NULL);
        pthread_mutex_init(&clerk->table, NULL);
        atomic_store(&clerk->running, false);
        atomic_store(&clerk->process, here);
    }
}

bool
clerk_thread_is_running(struct clerk_thread *clerk)
{
    clerk_thread_settle(clerk);
    return atomic_load(&clerk->running);
}

/* Signals are for the others: the main thread, where Python handles them, would not be interrupted by
 * one that the kernel gives to this thread. */
static int
create(struct clerk_thread *clerk)
{
    pthread_attr_t attributes;
    sigset_t all, before;

    int failed = pthread_attr_init(&attributes);
    if (failed != 0) {
        return failed;
    }
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&clerk->thread, &attributes, work, clerk);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}

void
clerk_thread_want(struct clerk_thread *clerk)
{
    atomic_store(&clerk->wanted, true);
}

void
clerk_thread_begin(struct clerk_thread *clerk)
{
    clerk_thread_settle(clerk);
    pthread_mutex_lock(&clerk->life);
    if (atomic_load(&clerk->wanted) && !atomic_load(&clerk->running)) {
        atomic_store(&clerk->stopping, false);
        atomic_store(&clerk->number, 0);
        atomic_store(&clerk->reception->bell.state, 0); /* who slept here is gone */
        const bool made = create(clerk) == 0;
        atomic_store(&clerk->running, made);
        atomic_store(&clerk->reception->open, made);
    }
    pthread_mutex_unlock(&clerk->life);
}

/* Python warns of a fork when the kernel counts more than one thread, and it does so for a moment
 * after a thread has been joined. */
static void
await_kernel(pid_t process, pid_t thread)
{
    const int64_t deadline = now_ns() + FORGET_NS;

    while (syscall(SYS_tgkill, process, thread, 0) == 0 && now_ns() < deadline) {
        sched_yield();
    }
}

void
clerk_thread_end(struct clerk_thread *clerk)
{
    clerk_thread_settle(clerk);
    atomic_store(&clerk->wanted, false);
    pthread_mutex_lock(&clerk->life);
    if (atomic_load(&clerk->running)) {
        atomic_store(&clerk->stopping, true);
        atomic_store(&clerk->reception->open, 0);
        bell_nudge(&clerk->reception->bell, BELL_PORTER);
        pthread_join(clerk->thread, NULL);
        await_kernel(getpid(), atomic_load(&clerk->number));
        atomic_store(&clerk->running, false);
    }
    pthread_mutex_unlock(&clerk->life);
}

/* ---- desks */

struct place *
clerk_thread_grow(struct clerk_thread *clerk, struct place *at, size_t room)
{
    clerk_thread_settle(clerk);
    pthread_mutex_lock(&clerk->table);
    for (size_t i = 0; i < clerk->room; i++) {
        at[i] = clerk->at[i];
    }
    struct place *before = clerk->at;
    clerk->at = at;
    clerk->room = room;
    pthread_mutex_unlock(&clerk->table);
    return before;
}

struct place
clerk_thread_set(struct clerk_thread *clerk, size_t line, struct place place)
{
    clerk_thread_settle(clerk);
    pthread_mutex_lock(&clerk->table);
    const struct place before = clerk->at[line];
    clerk->at[line] = place;
    pthread_mutex_unlock(&clerk->table);
    return before;
}
