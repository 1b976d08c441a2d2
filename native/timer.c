#include "timer.h"

#include "arguments.h"

#include <errno.h>
#include <sys/timerfd.h>

enum { NS_IN_S = 1000000000 };

static PyObject *
timer_make(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    (void)module;
    const int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyObject *
timer_set(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    uint64_t fd, ns;
    if (require_count("set_timer", nargs, 2) < 0 || as_unsigned(args[0], "fd", INT32_MAX, &fd) < 0 ||
        as_unsigned(args[1], "ns", INT64_MAX, &ns) < 0) {
        return NULL;
    }
    const struct itimerspec then = {
        .it_value = {.tv_sec = (time_t)(ns / NS_IN_S), .tv_nsec = (long)(ns % NS_IN_S)},
    };
    if (timerfd_settime((int)fd, 0, &then, NULL) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyMethodDef timer_methods[] = {
    {"timer", timer_make, METH_NOARGS,
     "timer($module, /)\n--\n\n"
     "A new descriptor that becomes readable at the time that is set."},
    {"set_timer", NATIVE_METHOD(timer_set), METH_FASTCALL,
     "set_timer($module, fd, ns, /)\n--\n\n"
     "Have this timer become readable once, after so many nanoseconds; 0 for never. What was set counts "
     "no more."},
    {NULL, NULL, 0, NULL},
};

int
timer_setup(PyObject *module)
{
    return PyModule_AddFunctions(module, timer_methods);
}
