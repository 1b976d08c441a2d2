#define _GNU_SOURCE /* statx */

#include "system.h"

#include "arguments.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { LARGEST_PID = INT32_MAX, MOST_SIGNALS = 64 };

/* F_DUPFD_QUERY, which kernels have from 6.10 on and not every header knows. */
enum { DUPFD_QUERY = 1024 + 3 };

static int
as_int(PyObject *value, const char *what, int *result)
{
    uint64_t number;
    if (as_unsigned(value, what, LARGEST_PID, &number) < 0) {
        return -1;
    }
    *result = (int)number;
    return 0;
}

static PyObject *
system_tgkill(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int process, thread, sig;
    if (require_count("tgkill", nargs, 3) < 0 || as_int(args[0], "process", &process) < 0 ||
        as_int(args[1], "thread", &thread) < 0 || as_int(args[2], "sig", &sig) < 0) {
        return NULL;
    }
    if (syscall(SYS_tgkill, process, thread, sig) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

bool
system_file_of(int fd, const char **no_path, struct system_file *file)
{
    const int flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
    struct statx found;

    /* The function of the C library takes no NULL. */
    long failed = syscall(SYS_statx, fd, *no_path, flags, STATX_INO, &found);
    if (failed != 0 && errno == EFAULT && *no_path == NULL) {
        *no_path = "";
        failed = syscall(SYS_statx, fd, *no_path, flags, STATX_INO, &found);
    }
    if (failed != 0) {
        return false;
    }
    file->device = makedev(found.stx_dev_major, found.stx_dev_minor);
    file->inode = found.stx_ino;
    return true;
}

int
system_is_same_file(int fd, int other)
{
    const int same = fcntl(fd, DUPFD_QUERY, other);
    if (same >= 0 || errno != EINVAL) {
        return same;
    }
    const pid_t me = getpid();
    const long order = syscall(SYS_kcmp, me, me, KCMP_FILE, (unsigned long)fd, (unsigned long)other);
    return order < 0 ? -1 : order == 0;
}

static PyObject *
system_same_file(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int process, fd, other_process, other_fd;
    if (require_count("same_file", nargs, 4) < 0 || as_int(args[0], "process", &process) < 0 ||
        as_int(args[1], "fd", &fd) < 0 || as_int(args[2], "other_process", &other_process) < 0 ||
        as_int(args[3], "other_fd", &other_fd) < 0) {
        return NULL;
    }
    long order = syscall(SYS_kcmp, (long)process, (long)other_process, (long)KCMP_FILE,
                         (unsigned long)fd, (unsigned long)other_fd);
    if (order < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(order == 0);
}

static PyObject *
system_ignore_signal(PyObject *module, PyObject *number)
{
    (void)module;
    int sig;
    if (as_int(number, "sig", &sig) < 0) {
        return NULL;
    }
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    if (sigaction(sig, &ignore, NULL) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* Changes which signals the calling thread leaves to others, each a bit as in /proc, as pthread_sigmask
 * does. The former ones as a number. Python's own makes an object of an enumeration for each. */
static PyObject *
change_mask(int how, PyObject *bits)
{
    sigset_t set, before;
    uint64_t number, former = 0;

    if (as_unsigned(bits, "mask", UINT64_MAX, &number) < 0) {
        return NULL;
    }
    sigemptyset(&set);
    for (int sig = 1; sig <= MOST_SIGNALS; sig++) {
        if (number >> (sig - 1) & 1) {
            sigaddset(&set, sig); /* but those that the C library keeps for itself */
        }
    }
    const int failed = pthread_sigmask(how, &set, &before);
    if (failed != 0) {
        errno = failed;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    for (int sig = 1; sig <= MOST_SIGNALS; sig++) {
        if (sigismember(&before, sig) > 0) {
            former |= (uint64_t)1 << (sig - 1);
        }
    }
    return PyLong_FromUnsignedLongLong(former);
}

static PyObject *
system_block_signals(PyObject *module, PyObject *bits)
{
    (void)module;
    return change_mask(SIG_BLOCK, bits);
}

static PyObject *
system_set_blocked(PyObject *module, PyObject *bits)
{
    (void)module;
    return change_mask(SIG_SETMASK, bits);
}

/* Python's own lets go of the interpreter lock, which whoever is woken would have before us; it does not
 * block where the counter cannot be full. */
static PyObject *
system_notify(PyObject *module, PyObject *number)
{
    (void)module;
    const uint64_t one = 1;
    int fd;

    if (as_int(number, "fd", &fd) < 0) {
        return NULL;
    }
    if (write(fd, &one, sizeof one) < 0 && errno != EAGAIN) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* All that there is to read, a piece at a time. NULL with an exception. */
static PyObject *
read_all(int fd)
{
    char piece[4096];
    PyObject *all = PyBytes_FromStringAndSize(NULL, 0);

    while (all != NULL) {
        const ssize_t size = read(fd, piece, sizeof piece);
        if (size < 0 && errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            Py_CLEAR(all);
        } else if (size == 0) {
            break;
        } else if (size > 0) {
            PyBytes_ConcatAndDel(&all, PyBytes_FromStringAndSize(piece, size));
        }
    }
    return all;
}

/* By the thread's number in our own namespace: where /proc is another's, there is no such thread. With the
 * interpreter lock: the kernel does not block for it, and whoever forks has no time to wait for others. */
static PyObject *
system_children(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    (void)module;
    char path[sizeof "/proc/self/task//children" + 3 * sizeof(long)];

    snprintf(path, sizeof path, "/proc/self/task/%ld/children", syscall(SYS_gettid));
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *all = read_all(fd);
    close(fd);
    return all;
}

static PyObject *
system_note_process(PyObject *module, PyObject *page)
{
    (void)module;
    const int64_t process = getpid();
    Py_buffer there;

    if (PyObject_GetBuffer(page, &there, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    const bool fits = there.len >= (Py_ssize_t)sizeof process;
    if (fits) {
        memcpy(there.buf, &process, sizeof process);
    }
    PyBuffer_Release(&there);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "a process's number takes eight bytes");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef system_methods[] = {
    {"tgkill", NATIVE_METHOD(system_tgkill), METH_FASTCALL,
     "tgkill($module, process, thread, sig, /)\n--\n\n"
     "Send a signal to one thread of a process."},
    {"same_file", NATIVE_METHOD(system_same_file), METH_FASTCALL,
     "same_file($module, process, fd, other_process, other_fd, /)\n--\n\n"
     "Whether two descriptors are of one open file description."},
    {"ignore_signal", NATIVE_METHOD(system_ignore_signal), METH_O,
     "ignore_signal($module, sig, /)\n--\n\n"
     "Have the kernel drop this signal, whatever Python knows of it."},
    {"block_signals", system_block_signals, METH_O,
     "block_signals($module, mask, /)\n--\n\n"
     "Leave these signals (bit n - 1 for number n) to other threads, too. The mask until now."},
    {"set_blocked", system_set_blocked, METH_O,
     "set_blocked($module, mask, /)\n--\n\n"
     "Leave these signals to other threads, and no others. The mask until now."},
    {"children", system_children, METH_NOARGS,
     "children($module, /)\n--\n\n"
     "What the kernel lists of the calling thread's children, as proc(5) has it, read at once."},
    {"note_process", system_note_process, METH_O,
     "note_process($module, page, /)\n--\n\n"
     "Write the number of this process into the first eight bytes there."},
    {"notify", system_notify, METH_O,
     "notify($module, fd, /)\n--\n\n"
     "Add one to this eventfd, which does not block, and go on at once: who is woken by it has the "
     "interpreter lock when we let go of it."},
    {NULL, NULL, 0, NULL},
};

int
system_setup(PyObject *module)
{
    return PyModule_AddFunctions(module, system_methods);
}
