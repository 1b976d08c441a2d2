/* One end of a channel dies after any single instruction of its work.
 *
 * A child makes the window of a channel that has been read larger and writes records (or reads them),
 * in single steps. What it would leave if it were killed is
 * looked at after each of them, in a copy of the memory; and after some of them it is killed. The other
 * end finds whole records, in order, and nothing else, and the channel as usable as before. A ringer is
 * killed after each of its instructions, while somebody sleeps on the seat, who is woken by it or by the
 * next one. Ends with 0 if all is well.
 */
#define _GNU_SOURCE

#include "bell.h"
#include "channel.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LEAST = 128, CAPACITY = 256, FIRST = 1, RECORDS = 6, WRITTEN = 4, LINE = 70, BETWEEN_KILLS = 41,
       MOST_SECONDS = 20 };

struct shared {
    struct channel channel;
    struct bell bell;
    unsigned char data[CAPACITY];
};

static struct shared *shared;

/* Record n: its number, its size, and so many bytes of that number. */
static uint8_t
size_of(unsigned number)
{
    return (uint8_t)(5 + 37 * number % 60);
}

static struct channel_end
end_of(uint64_t at)
{
    return (struct channel_end){.shared = &shared->channel,
                                .data = shared->data,
                                .capacity = CAPACITY,
                                .least = LEAST,
                                .window = (uint64_t)LEAST << atomic_load(&shared->channel.doublings),
                                .at = at,
                                .seen = at,
                                .released = at};
}

static struct channel_end
reading_end(void)
{
    return end_of(atomic_load(&shared->channel.read));
}

static void
write_record(struct channel_end *out, unsigned number)
{
    const uint8_t head[2] = {(uint8_t)number, size_of(number)};
    unsigned char body[64];

    memset(body, (int)number, head[1]);
    channel_put(out, head, sizeof head);
    channel_put(out, body, head[1]);
    channel_publish(out);
    bell_ring(&shared->bell, LINE);
}

/* Reads what is there: the number of the record after the last. */
static unsigned
read_records(struct channel_end *in, unsigned number)
{
    uint64_t filled;
    uint8_t head[2];
    unsigned char body[64];

    assert(channel_filled(in, &filled));
    while (filled > 0) {
        assert(filled >= sizeof head);
        channel_take(in, head, sizeof head);
        assert(head[0] == number && head[1] == size_of(number));
        assert(filled >= sizeof head + head[1]);
        channel_take(in, body, head[1]);
        for (unsigned i = 0; i < head[1]; i++) {
            assert(body[i] == number);
        }
        filled -= sizeof head + head[1];
        channel_release_much(in);
        number++;
    }
    if (in->released != in->at) {
        channel_release(in);
    }
    return number;
}

static void
write_all(void)
{
    struct channel_end out = reading_end(); /* nothing is left there */

    assert(channel_fit(&out, CAPACITY));
    for (unsigned number = FIRST; number < RECORDS; number++) {
        while (channel_room(&out) < 2u + size_of(number)) {
            (void)channel_want(&out, 1);
            _exit(0); /* nobody reads meanwhile */
        }
        write_record(&out, number);
    }
}

static void
read_all(void)
{
    struct channel_end in = reading_end();
    uint64_t lines[BELL_WORDS];

    while (bell_take(&shared->bell, lines)) {
        (void)read_records(&in, 0);
    }
}

/* The writer is dead: what it published is whole, and never less than `least`, as found before. */
static unsigned
check_reader(unsigned least)
{
    struct channel_end in = reading_end();
    const unsigned found = read_records(&in, FIRST);
    struct channel_end out = end_of(in.at);

    assert(found >= least && found <= RECORDS);
    assert(channel_room(&out) == in.window);
    assert(channel_fit(&out, 0) && channel_room(&out) == LEAST);
    return found;
}

/* The reader is dead: what it has given back is room, and what it has not is still there. */
static unsigned
check_writer(unsigned least)
{
    const uint64_t read = atomic_load(&shared->channel.read);
    uint64_t at = 0;
    unsigned taken = 0;

    while (taken < WRITTEN && at < read) {
        at += 2u + size_of(taken);
        taken++;
    }
    assert(at == read && taken >= least);
    struct channel_end in = end_of(read);
    assert(read_records(&in, taken) == WRITTEN);
    return taken;
}

/* Begins `work` in a child, which has not taken a step when this returns. */
static pid_t
begin(void (*work)(void))
{
    const pid_t child = fork();
    int status;

    assert(child >= 0);
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        work();
        _exit(0);
    }
    assert(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    return child;
}

/* One instruction of the child. False if it has ended. */
static bool
step(pid_t child)
{
    int status;

    if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) != 0) {
        perror("ptrace");
        exit(2);
    }
    assert(waitpid(child, &status, 0) == child);
    assert(WIFEXITED(status) || (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP));
    return !WIFEXITED(status);
}

/* Looks at what the child would leave after each of its steps; how many they are. */
static long
look_after_each(void (*work)(void), unsigned (*check)(unsigned), unsigned *found)
{
    struct shared *live = shared;
    static struct shared copy;
    const pid_t child = begin(work);
    long steps = 0;

    while (step(child)) {
        copy = *live;
        shared = &copy;
        *found = check(*found);
        shared = live;
        steps++;
    }
    return steps;
}

/* Kills the child after so many steps, and looks at what it has left. */
static void
kill_after(long steps, void (*work)(void), unsigned (*check)(unsigned))
{
    const pid_t child = begin(work);
    int status;
    bool alive = true;

    while (alive && steps-- > 0) {
        alive = step(child); /* it does not take as many each time */
    }
    if (alive) {
        kill(child, SIGKILL);
        assert(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    }
    check(0);
}

static void
prepare(bool filled)
{
    memset(shared, 0, sizeof *shared);
    struct channel_end out = end_of(0);
    struct channel_end in = out;

    if (filled) {
        assert(channel_fit(&out, CAPACITY));
    }
    for (unsigned number = 0; number < (filled ? WRITTEN : FIRST); number++) {
        write_record(&out, number);
    }
    assert(filled || read_records(&in, 0) == FIRST);
}

/* ---- a ringer */

/* Sleeps on the seat until it is woken. */
static void
sleep_seated(void)
{
    uint32_t seen = atomic_load(&shared->bell.count);

    bell_sit(&shared->bell);
    assert(bell_sleep(&shared->bell, BELL_SEAT, INT64_MAX, NULL, &seen) == 0);
    _exit(0);
}

static void
ring(void)
{
    bell_ring(&shared->bell, LINE);
}

/* A process that sleeps on the seat. */
static pid_t
begin_sleeper(void)
{
    const pid_t child = fork();

    assert(child >= 0);
    if (child == 0) {
        sleep_seated();
    }
    while ((atomic_load(&shared->bell.state) & BELL_SEAT) == 0) {
        usleep(50);
    }
    return child;
}

/* Kills a ringer after so many steps. Who sleeps is woken, if it counts as awake, or else by the next
 * ring. False if the ringer had ended before. */
static bool
ring_until(long steps)
{
    int status;
    bool alive = true;

    memset(shared, 0, sizeof *shared);
    const pid_t sleeper = begin_sleeper();
    const pid_t ringer = begin(ring);
    while (alive && steps-- > 0) {
        alive = step(ringer);
    }
    if (alive) {
        kill(ringer, SIGKILL);
        assert(waitpid(ringer, &status, 0) == ringer && WIFSIGNALED(status));
    }
    if ((atomic_load(&shared->bell.state) & BELL_AWAKE) == 0) {
        ring();
    }
    alarm(MOST_SECONDS);
    assert(waitpid(sleeper, &status, 0) == sleeper && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    alarm(0);
    return alive;
}

static void
kill_ringers(void)
{
    long kills = 0;

    while (ring_until(kills)) {
        kills++;
    }
    assert(kills > 50);
    printf("ringer: killed after each of %ld instructions\n", kills);
}

static void
run(const char *who, bool filled, void (*work)(void), unsigned (*check)(unsigned), unsigned all)
{
    unsigned found = 0;
    long kills = 0;

    prepare(filled);
    const long steps = look_after_each(work, check, &found);
    assert(steps > 500 && found == all);
    for (long after = 0; after < steps; after += BETWEEN_KILLS, kills++) {
        prepare(filled);
        kill_after(after, work, check);
    }
    printf("%s: looked at after %ld instructions, killed %ld times\n", who, steps, kills);
}

int
main(void)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert(shared != MAP_FAILED);
    run("writer", false, write_all, check_reader, RECORDS);
    run("reader", true, read_all, check_writer, WRITTEN);
    kill_ringers();
    return 0;
}
