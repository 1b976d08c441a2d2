#define _GNU_SOURCE /* syscall */

#include "lock.h"

#include "arguments.h"
#include "clock.h"
#include "signal_look.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

struct lock {
    PyObject_HEAD
    _Atomic uint32_t held; /* read without the interpreter lock by who is about to sleep */
    uint32_t sleepers;
};

static struct lock *
lock_of(PyObject *self)
{
    return (struct lock *)self;
}

static PyObject *
lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    char *names[] = {NULL};

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Lock", names)) {
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

static void
lock_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
bool
lock_check(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == lock_dealloc;
}

bool
lock_is_held(PyObject *self)
{
    return atomic_load_explicit(&lock_of(self)->held, memory_order_relaxed) != 0;
}

bool
lock_try(PyObject *self)
{
    if (lock_is_held(self)) {
        return false;
    }
    atomic_store_explicit(&lock_of(self)->held, 1, memory_order_relaxed);
    return true;
}

/* Sleeps until the lock may be free, or until `deadline`: 0, or -1 with an exception. */
static int
sleep_on(struct lock *lock, int64_t deadline, int64_t *pause)
{
    const struct timespec at = timespec_of(until_next_look(deadline, pause));
    int found = 0;

    lock->sleepers++;
    Py_BEGIN_ALLOW_THREADS
    if (syscall(SYS_futex, &lock->held, FUTEX_WAIT_BITSET_PRIVATE, 1, &at, NULL,
                FUTEX_BITSET_MATCH_ANY) < 0) {
        found = errno;
    }
    Py_END_ALLOW_THREADS
    lock->sleepers--;
    if (found == EINTR) {
        *pause = 0;
    }
    return found == EINTR || found == ETIMEDOUT ? PyErr_CheckSignals() : 0;
}

int
lock_acquire(PyObject *self, int64_t deadline)
{
    int64_t pause = 0;

    while (!lock_try(self)) {
        if (deadline != INT64_MAX && now_ns() >= deadline) {
            return 0;
        }
        if (sleep_on(lock_of(self), deadline, &pause) < 0) {
            return -1;
        }
    }
    return 1;
}

void
lock_release(PyObject *self)
{
    struct lock *lock = lock_of(self);

    /* Who is about to sleep has said so under the interpreter lock; the kernel looks once more. */
    atomic_store_explicit(&lock->held, 0, memory_order_release);
    if (lock->sleepers > 0) {
        syscall(SYS_futex, &lock->held, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

PyDoc_STRVAR(acquire_doc, "acquire($self, blocking=True, timeout=-1)\n--\n\n"
                          "Take the lock; False if it is held, and we are not to wait any longer. "
                          "Signals are handled.");

static PyObject *
acquire_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters wanted = {"acquire", 0, 2, {"blocking", "timeout"}};
    PyObject *bound[MOST_PARAMETERS];
    double seconds = -1;

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        (bound[1] != NULL && as_seconds(bound[1], &seconds) < 0)) {
        return NULL;
    }
    const int blocking = bound[0] == NULL ? 1 : PyObject_IsTrue(bound[0]);
    if (blocking < 0) {
        return NULL;
    }
    if (!blocking) {
        return PyBool_FromLong(lock_try(self));
    }
    const int taken = lock_acquire(self, seconds < 0 ? INT64_MAX : after_seconds(seconds));
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *
enter_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return lock_acquire(self, INT64_MAX) < 0 ? NULL : Py_NewRef(Py_True);
}

PyDoc_STRVAR(release_doc, "release($self, /)\n--\n\nGive the lock back. RuntimeError if it is free.");

static PyObject *
release_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (!lock_is_held(self)) {
        PyErr_SetString(PyExc_RuntimeError, "release of a lock that is free");
        return NULL;
    }
    lock_release(self);
    Py_RETURN_NONE;
}

static PyObject *
exit_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)args;
    (void)nargs;
    return release_method(self, NULL);
}

PyDoc_STRVAR(locked_doc, "locked($self, /)\n--\n\nWhether anybody holds it.");

static PyObject *
locked_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(lock_is_held(self));
}

static PyMethodDef lock_methods[] = {
    {"acquire", NATIVE_METHOD(acquire_method), METH_FASTCALL | METH_KEYWORDS, acquire_doc},
    {"release", release_method, METH_NOARGS, release_doc},
    {"locked", locked_method, METH_NOARGS, locked_doc},
    {"__enter__", enter_method, METH_NOARGS, NULL},
    {"__exit__", NATIVE_METHOD(exit_method), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(lock_doc, "Lock()\n--\n\nWhat threading.Lock is, and the exchange can look at.");

static PyType_Slot lock_slots[] = {
    {Py_tp_doc, (void *)lock_doc},
    {Py_tp_new, lock_new},
    {Py_tp_dealloc, lock_dealloc},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};

static PyType_Spec lock_spec = {
    .name = "libos_ipc._native.Lock",
    .basicsize = sizeof(struct lock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lock_slots,
};

int
lock_setup(PyObject *module)
{
    return native_add_type(module, &lock_spec);
}
