/* The clerk and its desks between threads, without Python: for the thread sanitizer.
 *
 * Four threads ask at a desk each, most of the time what the clerk knows and now and then what it
 * leaves, and check that the answer is for their question. Meanwhile two threads end the clerk and begin
 * it anew, and one takes desks away, puts them back, and makes the table of them larger. An asker who
 * gets no answer soon asks again. Then two threads end the clerk at once: for both it is gone then.
 *
 * Without the sanitizer, which supports no threads after a fork, it also forks with the clerk's locks
 * held, as a fork does that no hook tells of: the child's clerk must work all the same.
 *
 * Ends with 0 if all is well.
 */
#define _GNU_SOURCE

#include "clerk_thread.h"
#include "clock.h"
#include "packing.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ASKERS = 4,
    QUESTIONS = 20000,
    ENDS = 400,
    FORKS = 20,
    FIRST_LINE = 60, /* so that they lie in two words of the bell */
    RESP = 0,
    PING = 57,
    UNKNOWN = 58,
    SOON_NS = 2000000
};

static struct reception reception;
static struct desk desks[ASKERS];
static struct clerk_thread clerk = {.reception = &reception, .looks = {.ns = 1000}};
static _Atomic bool done;

static void
write_question(unsigned char question[DESK_MESSAGE], uint64_t seq, uint64_t code)
{
    store_envelope(question, &(struct envelope){0, 0});
    store_header(question + ENVELOPE_SIZE,
                 &(struct header){.size = HEADER_SIZE, .seq = seq, .code = code});
}

/* Whether it is answered soon, and then by what belongs to it. */
static bool
ask(unsigned asker, uint32_t turn, uint64_t code)
{
    struct desk *desk = &desks[asker];
    unsigned char message[DESK_MESSAGE];
    const int64_t latest = now_ns() + SOON_NS;

    write_question(message, turn, code);
    desk_ask(desk, turn, message);
    bell_ring(&reception.bell, FIRST_LINE + asker);
    for (;;) {
        const uint32_t seen = desk_answered(desk);
        if (seen == turn) {
            break;
        }
        if (now_ns() >= latest) {
            return false;
        }
        desk_await(desk, seen, latest, asker % 2 == 0 ? 0 : 1000);
    }
    desk_read(desk, message);
    assert(code == PING);
    assert(load_little_endian(message + ENVELOPE_SIZE, 8) == HEADER_SIZE);
    assert(load_little_endian(message + ENVELOPE_SIZE + 8, 8) == turn);
    assert(message[ENVELOPE_SIZE + 16] == RESP);
    return true;
}

static void *
ask_all(void *argument)
{
    const unsigned asker = *(const unsigned *)argument;
    uint32_t turn = 0;

    for (int number = 0; number < QUESTIONS; number++) {
        if (number % 1000 == 500) {
            assert(!ask(asker, ++turn, UNKNOWN));
        }
        while (!ask(asker, ++turn, PING)) {
        }
    }
    return NULL;
}

static void *
end_and_begin(void *nothing)
{
    (void)nothing;
    for (int number = 0; number < ENDS; number++) {
        clerk_thread_end(&clerk);
        clerk_thread_want(&clerk);
        clerk_thread_begin(&clerk);
        usleep(500); /* the clerk has time to answer */
    }
    return NULL;
}

static void *
change_desks(void *nothing)
{
    size_t room = clerk.room;

    (void)nothing;
    for (unsigned turn = 0; !atomic_load(&done); turn++) {
        const size_t line = FIRST_LINE + turn % ASKERS;
        const struct place place = clerk_thread_set(&clerk, line, (struct place){0});
        assert(place.desk == &desks[turn % ASKERS]);
        clerk_thread_set(&clerk, line, place);
        if (turn % 64 == 0 && room < BELL_LINES) {
            struct place *at = calloc(++room, sizeof *at);
            assert(at != NULL);
            free(clerk_thread_grow(&clerk, at, room));
        }
        usleep(100);
    }
    return NULL;
}

static void
serve_all(void)
{
    struct place *at = calloc(FIRST_LINE + ASKERS, sizeof *at);

    assert(at != NULL);
    clerk_thread_grow(&clerk, at, FIRST_LINE + ASKERS);
    for (unsigned asker = 0; asker < ASKERS; asker++) {
        clerk_thread_set(&clerk, FIRST_LINE + asker, (struct place){.desk = &desks[asker]});
    }
    clerk_thread_want(&clerk);
    clerk_thread_begin(&clerk);
}

static void *
end_and_see(void *barrier)
{
    const pid_t thread = atomic_load(&clerk.number);

    pthread_barrier_wait(barrier);
    clerk_thread_end(&clerk);
    assert(!clerk_thread_is_running(&clerk));
    assert(syscall(SYS_tgkill, getpid(), thread, 0) < 0);
    return NULL;
}

static void
end_at_once(void)
{
    pthread_barrier_t barrier;
    pthread_t threads[2];

    pthread_barrier_init(&barrier, NULL, 2);
    for (int number = 0; number < ENDS; number++) {
        clerk_thread_want(&clerk);
        clerk_thread_begin(&clerk);
        while (atomic_load(&clerk.number) == 0) {
        }
        pthread_create(&threads[0], NULL, end_and_see, &barrier);
        pthread_create(&threads[1], NULL, end_and_see, &barrier);
        pthread_join(threads[0], NULL);
        pthread_join(threads[1], NULL);
    }
    pthread_barrier_destroy(&barrier);
}

static void
ask_from_all_sides(void)
{
    unsigned numbers[ASKERS];
    pthread_t askers[ASKERS], others[3];

    for (unsigned asker = 0; asker < ASKERS; asker++) {
        numbers[asker] = asker;
        pthread_create(&askers[asker], NULL, ask_all, &numbers[asker]);
    }
    pthread_create(&others[0], NULL, end_and_begin, NULL);
    pthread_create(&others[1], NULL, end_and_begin, NULL);
    pthread_create(&others[2], NULL, change_desks, NULL);
    pthread_join(others[0], NULL);
    pthread_join(others[1], NULL);
    clerk_thread_want(&clerk);
    clerk_thread_begin(&clerk);
    for (unsigned asker = 0; asker < ASKERS; asker++) {
        pthread_join(askers[asker], NULL);
    }
    atomic_store(&done, true);
    pthread_join(others[2], NULL);
}

#ifndef __SANITIZE_THREAD__
/* A child whose copy of the locks is held by a thread that it has not. */
static void
fork_with_locks_held(void)
{
    for (int number = 0; number < FORKS; number++) {
        pthread_mutex_lock(number % 2 == 0 ? &clerk.table : &clerk.life);
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);
            assert(!clerk_thread_is_running(&clerk));
            clerk_thread_want(&clerk);
            clerk_thread_begin(&clerk);
            assert(clerk_thread_is_running(&clerk));
            clerk_thread_end(&clerk);
            assert(!clerk_thread_is_running(&clerk));
            _exit(0);
        }
        pthread_mutex_unlock(number % 2 == 0 ? &clerk.table : &clerk.life);
        int status;
        assert(waitpid(child, &status, 0) == child && status == 0);
    }
}
#endif

int
main(void)
{
    clerk_thread_init(&clerk);
    serve_all();
    ask_from_all_sides();
    end_at_once();
#ifndef __SANITIZE_THREAD__
    fork_with_locks_held();
#endif
    clerk_thread_end(&clerk);
    assert(!clerk_thread_is_running(&clerk) && atomic_load(&reception.open) == 0);
    free(clerk.at);
    clerk_thread_destroy(&clerk);
    printf("%d questions, each answered, by a clerk that was ended %d times\n", ASKERS * QUESTIONS,
           2 * ENDS);
    return 0;
}
