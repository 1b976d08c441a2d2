/* Kills a running process exactly at its n-th stop: before or after a system call, of any thread.
 *
 *     kill_at PID N            at the N-th of these stops; both sides of each call count
 *     kill_at PID N WORD STEPS STEPS instructions after the N-th change of the 8 bytes at WORD,
 *                              an address in that process (a hardware watchpoint tells of it)
 *
 * Says "ready" when all threads are traced and nothing moves. Whatever happens, the process is dead
 * in the end: at that stop, or when standard input ends before it has come. Then it says
 * how many stops (or changes) there were until then, and whether the last of them was the one. 77 says
 * that the system does not allow it.
 */
#define _GNU_SOURCE

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77, QUIET_US = 30000, MOST_THREADS = 256 };

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL)
/* Debug register 7: the first watchpoint counts, for this thread, writes of 8 bytes. */
#define WATCHES (1UL | 1UL << 16 | 2UL << 18)

static pid_t process, stepping;
static long wanted, stops, steps;
static unsigned long word;
static int ready, done;
static pid_t threads[MOST_THREADS];
static size_t known;

static void
quiet(int sig)
{
    (void)sig;
}

static void
look_again_soon(void)
{
    const struct itimerval soon = {.it_value = {.tv_usec = QUIET_US}};

    if (setitimer(ITIMER_REAL, &soon, NULL) != 0)
        abort();
}

/* Whoever holds our standard input has nothing more to wait for. */
static void *
until_closed(void *unused)
{
    char byte;

    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    kill(process, SIGKILL);
    return unused;
}

static void
watch_word(pid_t thread)
{
    if (word != 0
        && (ptrace(PTRACE_POKEUSER, thread, offsetof(struct user, u_debugreg[0]), word) != 0
            || ptrace(PTRACE_POKEUSER, thread, offsetof(struct user, u_debugreg[7]), WATCHES) != 0)) {
        perror("a watchpoint");
        exit(SKIPPED);
    }
}

static int
is_known(pid_t thread)
{
    for (size_t at = 0; at < known; at++)
        if (threads[at] == thread)
            return 1;
    return 0;
}

static void
seize(pid_t thread)
{
    if (known == MOST_THREADS || is_known(thread))
        return;
    if (ptrace(PTRACE_SEIZE, thread, 0L, OPTIONS) != 0) {
        if (errno == ESRCH)
            return;
        perror("tracing");
        exit(errno == EPERM || errno == ENOSYS ? SKIPPED : 1);
    }
    if (ptrace(PTRACE_INTERRUPT, thread, 0L, 0L) != 0 && errno != ESRCH)
        abort();
    threads[known++] = thread;
}

/* All threads: those of untraced ones may make others meanwhile, so until there are no more. */
static void
seize_all(void)
{
    char path[64];
    size_t before;

    snprintf(path, sizeof path, "/proc/%d/task", (int)process);
    do {
        DIR *tasks = opendir(path);

        before = known;
        if (tasks == NULL)
            exit(1);
        for (struct dirent *task; (task = readdir(tasks)) != NULL;)
            if (task->d_name[0] != '.')
                seize((pid_t)atoi(task->d_name));
        closedir(tasks);
    } while (known != before);
}

static void
count(void)
{
    if (!ready || ++stops != wanted)
        return;
    done = 1;
    kill(process, SIGKILL);
}

/* What a thread does next: to its next stop, or, behind the change that was wanted, one instruction.
 * It may sleep in that one, so nobody waits for this thread alone. */
static void
go_on(pid_t thread, int sig)
{
    const enum __ptrace_request how
        = thread == stepping ? PTRACE_SINGLESTEP : word != 0 ? PTRACE_CONT : PTRACE_SYSCALL;

    ptrace(how, thread, 0L, (long)sig);
}

/* The word has changed, or a step is done. */
static void
on_trap(pid_t thread)
{
    if (word == 0 || !ready)
        return;
    if (stepping == 0 && stops + 1 == wanted && steps > 0)
        stepping = thread;
    else if (stepping == 0 || (thread == stepping && --steps == 0))
        count();
}

static void
on_stop(pid_t thread, int status)
{
    const int sig = WSTOPSIG(status), event = status >> 16;

    if (!is_known(thread) && known < MOST_THREADS) { /* a new one: its first stop */
        threads[known++] = thread;
        watch_word(thread);
    } else if (event == PTRACE_EVENT_STOP && !ready) {
        watch_word(thread);
    }
    if (sig == (SIGTRAP | 0x80)) {
        count();
        go_on(thread, 0);
    } else if (event == PTRACE_EVENT_STOP && sig != SIGTRAP) {
        ptrace(PTRACE_LISTEN, thread, 0L, 0L);
    } else if (event != 0) {
        go_on(thread, 0);
    } else if (sig == SIGTRAP) {
        on_trap(thread);
        go_on(thread, 0);
    } else {
        go_on(thread, sig);
    }
}

static void
begin(void)
{
    pthread_t reader;

    ready = 1;
    if (pthread_create(&reader, NULL, until_closed, NULL) != 0)
        abort();
    puts("ready");
    fflush(stdout);
}

int
main(int argc, char **argv)
{
    const struct sigaction act = {.sa_handler = quiet};
    int status;

    if (argc < 3)
        return 1;
    process = (pid_t)atoi(argv[1]);
    wanted = atol(argv[2]);
    word = argc > 4 ? strtoul(argv[3], NULL, 0) : 0;
    steps = argc > 4 ? atol(argv[4]) : 0;
    sigaction(SIGALRM, &act, NULL);
    seize_all();
    look_again_soon();
    for (;;) {
        const pid_t thread = waitpid(-1, &status, __WALL);

        if (thread < 0 && errno == EINTR) {
            if (!ready)
                begin();
        } else if (thread < 0) {
            break; /* nothing is left to trace */
        } else if (WIFSTOPPED(status)) {
            on_stop(thread, status);
            if (!ready)
                look_again_soon();
        } else if (thread == process) {
            break;
        }
    }
    printf("%ld %d\n", stops, done);
    return 0;
}
