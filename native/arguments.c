#include "arguments.h"

#include "clock.h"

static Py_ssize_t
index_of_name(const struct parameters *wanted, PyObject *name)
{
    for (Py_ssize_t i = 0; i < wanted->count; i++) {
        if (PyUnicode_CompareWithASCIIString(name, wanted->names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

int
bind_arguments(const struct parameters *wanted, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames, PyObject *bound[MOST_PARAMETERS])
{
    const Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);

    if (nargs > wanted->count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments, got %zd",
                     wanted->function, wanted->count, nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < MOST_PARAMETERS; i++) {
        bound[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        const Py_ssize_t place = index_of_name(wanted, name);
        if (place < 0) {
            PyErr_Format(PyExc_TypeError, "%s() has no argument %R", wanted->function, name);
            return -1;
        }
        if (bound[place] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got argument %R twice", wanted->function, name);
            return -1;
        }
        bound[place] = args[nargs + i];
    }
    for (Py_ssize_t i = 0; i < wanted->required; i++) {
        if (bound[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() needs argument '%s'", wanted->function,
                         wanted->names[i]);
            return -1;
        }
    }
    return 0;
}

int
require_count(const char *method, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, got %zd", method, wanted, given);
    return -1;
}

int
as_seconds(PyObject *value, double *result)
{
    *result = PyFloat_AsDouble(value);
    return *result == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static int
require_int(PyObject *value, const char *what)
{
    if (!PyLong_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %s", what, Py_TYPE(value)->tp_name);
        return -1;
    }
    return 0;
}

int
as_unsigned(PyObject *value, const char *what, uint64_t limit, uint64_t *result)
{
    if (require_int(value, what) < 0) {
        return -1;
    }
    *result = PyLong_AsUnsignedLongLong(value);
    if (*result == UINT64_MAX && PyErr_Occurred()) {
        PyErr_Clear(); /* it is an int, so it can only be too large or negative */
        *result = 0;
    }
    else if (*result <= limit) {
        return 0;
    }
    PyErr_Format(PyExc_OverflowError, "%s %R is not within 0..%llu", what, value,
                 (unsigned long long)limit);
    return -1;
}

int
as_signed(PyObject *value, const char *what, int64_t lowest, int64_t highest, int64_t *result)
{
    int overflow;

    if (require_int(value, what) < 0) {
        return -1;
    }
    *result = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0 && lowest <= *result && *result <= highest) {
        return 0;
    }
    PyErr_Format(PyExc_OverflowError, "%s %R is not within %lld..%lld", what, value,
                 (long long)lowest, (long long)highest);
    return -1;
}

int
as_deadline(PyObject *value, int64_t *deadline)
{
    double seconds;

    *deadline = INT64_MAX;
    if (value == Py_None) {
        return 0;
    }
    if (as_seconds(value, &seconds) < 0) {
        return -1;
    }
    *deadline = ns_of(seconds);
    return 0;
}
