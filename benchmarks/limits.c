/*
 * What the machine allows: 32 bytes to another process and back through shared memory.
 *
 * Two processes share one page. Each side has a slot: 32 bytes and a turn number, which is stored
 * last. A side that waits for a turn looks at it `spins` times and then sleeps in the kernel
 * (futex); the other side enters the kernel only if it sees that somebody sleeps. With spins 0
 * this is the blocking limit, with 1000 the spinning one.
 *
 * What it leaves out: everything a library is for. There is no length, no sender, no queue, one
 * message at most is under way, and the death of a side is nobody's business. Two readings of the
 * clock (about 50 ns) are part of every round trip.
 *
 * Spoken to like every other contender: arguments SPINS ASKING_CORE ANSWERING_CORE (-1: free);
 * a count per line on standard input, one line of JSON per round on standard output.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAYLOAD = 32 };

struct slot {
    _Alignas(64) _Atomic uint32_t turn;
    _Atomic uint32_t asleep; /* written by the waiting side alone: a late clear loses no wake */
    unsigned char bytes[PAYLOAD];
};

struct page {
    struct slot request, answer;
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void publish(struct slot *slot, uint32_t turn, const unsigned char *bytes)
{
    memcpy(slot->bytes, bytes, PAYLOAD);
    atomic_store(&slot->turn, turn);
    if (atomic_load(&slot->asleep))
        syscall(SYS_futex, &slot->turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void await_turn(struct slot *slot, uint32_t turn, long spins)
{
    for (long i = 0; i < spins; i++) {
        if (atomic_load_explicit(&slot->turn, memory_order_acquire) == turn)
            return;
        relax();
    }
    atomic_store(&slot->asleep, 1);
    for (;;) {
        uint32_t seen = atomic_load(&slot->turn);
        if (seen == turn)
            break;
        syscall(SYS_futex, &slot->turn, FUTEX_WAIT, seen, NULL, NULL, 0);
    }
    atomic_store(&slot->asleep, 0);
}

static void pin(int core)
{
    if (core < 0)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        perror("sched_setaffinity");
}

static void answer_for_ever(struct page *page, long spins)
{
    unsigned char bytes[PAYLOAD];
    for (uint32_t turn = 1;; turn++) {
        await_turn(&page->request, turn, spins);
        memcpy(bytes, page->request.bytes, PAYLOAD);
        publish(&page->answer, turn, bytes);
    }
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void round_trips(struct page *page, long spins, long count, uint32_t *turn)
{
    unsigned char bytes[PAYLOAD] = {1, 2, 3};
    int64_t *taken = calloc((size_t)count, sizeof *taken);
    if (taken == NULL)
        exit(1);
    for (long i = 0; i < count; i++) {
        int64_t started = now_ns();
        publish(&page->request, ++*turn, bytes);
        await_turn(&page->answer, *turn, spins);
        memcpy(bytes, page->answer.bytes, PAYLOAD);
        taken[i] = now_ns() - started;
    }
    printf("{\"round trip\": [");
    for (long i = 0; i < count; i++)
        printf("%s%lld", i ? ", " : "", (long long)taken[i]);
    printf("]}\n");
    fflush(stdout);
    free(taken);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s SPINS ASKING_CORE ANSWERING_CORE\n", argv[0]);
        return 2;
    }
    long spins = atol(argv[1]);
    struct page *page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    pid_t other = fork();
    if (other < 0) {
        perror("fork");
        return 1;
    }
    if (other == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(atoi(argv[3]));
        answer_for_ever(page, spins);
    }
    pin(atoi(argv[2]));
    printf("{\"ready\": true}\n");
    fflush(stdout);
    uint32_t turn = 0;
    long count;
    while (scanf("%ld", &count) == 1)
        round_trips(page, spins, count, &turn);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    return 0;
}
