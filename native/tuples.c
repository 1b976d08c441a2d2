#include "tuples.h"

/* Whether nothing can be reached from here, so that the collector need not look. */
static bool
is_plain_value(PyObject *value)
{
    return PyLong_CheckExact(value) || PyBytes_CheckExact(value) || value == Py_None;
}

static bool
are_whole(PyObject *const fields[FIELDS])
{
    return fields[0] != NULL && fields[1] != NULL && fields[2] != NULL && fields[3] != NULL;
}

static void
drop_fields(PyObject *const fields[FIELDS])
{
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        Py_XDECREF(fields[i]);
    }
}

PyObject *
tuple_make(PyObject *kind, PyObject *const fields[FIELDS])
{
    PyObject *made =
        are_whole(fields) ? ((PyTypeObject *)kind)->tp_alloc((PyTypeObject *)kind, FIELDS) : NULL;
    bool plain = true;

    if (made == NULL) {
        drop_fields(fields);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        PyTuple_SET_ITEM(made, i, fields[i]);
        plain = plain && is_plain_value(fields[i]);
    }
    if (plain) {
        PyObject_GC_UnTrack(made); /* of a stream there are thousands at a time */
    }
    return made;
}

PyObject *
spares_make(struct spares *spares, PyObject *kind, PyObject *const fields[FIELDS])
{
    if (spares->count == 0 || !are_whole(fields)) {
        return tuple_make(kind, fields);
    }
    PyObject *made = spares->tuples[--spares->count];
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        PyTuple_SET_ITEM(made, i, fields[i]);
    }
    return made;
}

void
spares_return(struct spares *spares, PyObject *tuple)
{
#if PY_VERSION_HEX < 0x030E0000 /* later ones keep their hash */
    if (Py_REFCNT(tuple) == 1 && spares->count < SPARES && !PyObject_GC_IsTracked(tuple)) {
        /* Plain values, as it is not tracked: to drop them runs no Python code. */
        for (Py_ssize_t i = 0; i < FIELDS; i++) {
            PyObject *field = PyTuple_GET_ITEM(tuple, i);
            PyTuple_SET_ITEM(tuple, i, NULL);
            Py_DECREF(field);
        }
        spares->tuples[spares->count++] = tuple;
        return;
    }
#endif
    Py_DECREF(tuple);
}

void
spares_drop(struct spares *spares)
{
    while (spares->count > 0) {
        Py_DECREF(spares->tuples[--spares->count]);
    }
}
