/* Arguments: from the interpreter's vectorcall convention to C, checked.
 *
 * Both parsers of the public C API that know keywords want a tuple and a dict, which costs more
 * than packing a header does. Nothing here blocks or runs Python code, so no state of the caller
 * can change under it.
 */
#ifndef LIBOS_IPC_ARGUMENTS_H
#define LIBOS_IPC_ARGUMENTS_H

#include "native.h"

enum { MOST_PARAMETERS = 3 };

struct parameters {
    const char *function;
    Py_ssize_t required; /* how many of the names must be given */
    Py_ssize_t count;    /* how many names there are */
    const char *names[MOST_PARAMETERS];
};

/* Lays the arguments of a call, by place or by name, into bound[0 .. count-1] in the order of the
 * names: borrowed references, NULL for an optional one not given. -1 with TypeError. */
int bind_arguments(const struct parameters *wanted, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames, PyObject *bound[MOST_PARAMETERS]);

/* For a method that takes exactly `wanted` arguments, all by place. -1 with TypeError. */
int require_count(const char *method, Py_ssize_t given, Py_ssize_t wanted);

/* A number of seconds. -1 with TypeError. */
int as_seconds(PyObject *value, double *result);

/* A time as time.monotonic() gives it, in nanoseconds; None is never. -1 with TypeError. */
int as_deadline(PyObject *value, int64_t *deadline);

/* An int (no other type, not even one with __index__) within 0 … limit, or lowest … highest.
 * `what` names it in the error. -1 with TypeError or OverflowError. */
int as_unsigned(PyObject *value, const char *what, uint64_t limit, uint64_t *result);
int as_signed(PyObject *value, const char *what, int64_t lowest, int64_t highest, int64_t *result);

#endif
