#include "quick_handle_parts.h"
#include "record.h"

enum { VERSION = 0, DATA = 1, VALUE_FIELDS = 2 };

static const uint64_t LAST_VERSION = UINT64_MAX >> 1;

PyObject *
quick_handle_encode(const struct quick_handle *handle, PyObject *value)
{
    if (handle->plain == NULL || !Py_IS_TYPE(value, (PyTypeObject *)handle->plain)) {
        return NULL;
    }
    if (handle->encode == Py_None) {
        return PyBytes_CheckExact(value) ? Py_NewRef(value) : NULL;
    }
    PyObject *data = PyObject_CallOneArg(handle->encode, value);
    if (data == NULL) {
        PyErr_Clear(); /* it happens again in Python, and is told properly */
    } else if (!PyBytes_CheckExact(data)) {
        Py_CLEAR(data);
    }
    return data;
}

/* The value behind this one. NULL with MemoryError, or without an exception if this one is none that can
 * be followed from here. */
static PyObject *
make_next(PyObject *before, PyObject *data)
{
    if (!PyTuple_Check(before) || PyTuple_GET_SIZE(before) != VALUE_FIELDS ||
        !PyLong_CheckExact(PyTuple_GET_ITEM(before, VERSION)) ||
        !PyBytes_CheckExact(PyTuple_GET_ITEM(before, DATA))) {
        return NULL; /* a large one lies in a file that somebody must remove */
    }
    const uint64_t version = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(before, VERSION));
    if (version >= LAST_VERSION) {
        PyErr_Clear();
        return NULL;
    }
    PyObject *number = PyLong_FromUnsignedLongLong(version + 1);
    PyObject *next =
        number == NULL ? NULL : Py_TYPE(before)->tp_alloc(Py_TYPE(before), VALUE_FIELDS);
    if (next == NULL) {
        Py_XDECREF(number);
        return NULL;
    }
    PyTuple_SET_ITEM(next, VERSION, number);
    PyTuple_SET_ITEM(next, DATA, Py_NewRef(data));
    return next;
}

/* The cell, if this agent may unlock there what it has locked as `state`; borrowed. */
static struct handle_cell *
unlockable(const struct quick_handle *handle, uint32_t agent)
{
    struct handle_cell *cell = quick_handle_cell(handle);
    return cell != NULL && handle_cell_may_unlock(cell, agent) ? cell : NULL;
}

static int
unlock_unchanged(const struct quick_handle *handle, uint32_t agent)
{
    struct handle_cell *cell = quick_handle_cell(handle);

    if (cell != NULL && handle_cell_give(cell, agent, NULL)) {
        return 1;
    }
    cell = unlockable(handle, agent);
    if (cell == NULL) {
        return 0;
    }
    if (cell->using == HANDLE_EXCLUSIVE) {
        struct record *record = record_of(cell->record);
        if (record == NULL) {
            return 0;
        }
        record_set_use(record, false);
    }
    handle_cell_unlock(cell);
    handle_cell_put(cell);
    return 1;
}

/* Gives back by the baton what follows the value that is there; takes `next` over then. */
static bool
pass_on(const struct quick_handle *handle, uint32_t agent, PyObject *before, PyObject *next)
{
    struct handle_cell *cell = quick_handle_cell(handle);

    if (cell == NULL || cell->value != before || !handle_cell_give(cell, agent, next)) {
        return false;
    }
    cell->value = next;
    return true;
}

/* Commits, if nothing has changed since `next` was made to follow `before`; takes it over then. */
static bool
commit(const struct quick_handle *handle, uint32_t agent, PyObject *before, PyObject *next)
{
    struct handle_cell *cell = unlockable(handle, agent);
    struct record *record = cell == NULL ? NULL : record_of(cell->record);
    PyObject *data = PyTuple_GET_ITEM(next, DATA);
    const size_t size = (size_t)PyBytes_GET_SIZE(data);

    if (record == NULL || cell->value != before || cell->using != HANDLE_EXCLUSIVE ||
        handle_cell_is_watched(cell) || !record_fits(record, size)) {
        return false;
    }
    record_commit(record, PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(next, VERSION)),
                  PyBytes_AS_STRING(data), size);
    cell->value = next;
    cell->own = 1;
    record_set_use(record, false);
    handle_cell_unlock(cell);
    handle_cell_put(cell);
    return true;
}

int
quick_handle_unlock_now(struct quick_handle *handle, uint32_t agent, PyObject *data,
                        PyObject *value)
{
    if (data == NULL) {
        return unlock_unchanged(handle, agent);
    }
    const struct handle_cell *cell = quick_handle_cell(handle);
    if (cell == NULL || cell->user != agent || (uint64_t)PyBytes_GET_SIZE(data) > handle->limit) {
        return 0;
    }
    PyObject *before = Py_NewRef(cell->value); /* the collector may run others' code */
    PyObject *next = make_next(before, data);
    int done = next == NULL && PyErr_Occurred() ? -1 : 0;
    if (next != NULL) {
        const bool plain = Py_IS_TYPE(value, (PyTypeObject *)handle->plain);
        done = pass_on(handle, agent, before, next) || commit(handle, agent, before, next);
        if (done && plain) {
            Py_XSETREF(handle->known, Py_NewRef(next));
            Py_XSETREF(handle->decoded, Py_NewRef(value));
        }
        Py_DECREF(done ? before : next); /* the cell's until now, or nobody's */
    }
    Py_DECREF(before);
    return done;
}

PyObject *
quick_handle_unlock(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct quick_handle *handle = quick_handle_of(self);
    PyObject *data = NULL;

    if (nargs <= 1 && kwnames == NULL) {
        const int64_t agent = quick_handle_agent(handle);
        data = agent > 0 && nargs == 1 ? quick_handle_encode(handle, args[0]) : NULL;
        int done = agent < 0 ? -1 : 0;
        if (agent > 0 && (nargs == 0 || data != NULL)) {
            done = quick_handle_unlock_now(handle, (uint32_t)agent, data,
                                           nargs == 0 ? NULL : args[0]);
        }
        Py_XDECREF(data);
        if (done != 0) {
            return done < 0 ? NULL : Py_NewRef(Py_None);
        }
    }
    PyObject *method = quick_handle_method(self, "_unlock");
    if (method == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_Vectorcall(method, args, (size_t)nargs, kwnames);
    Py_DECREF(method);
    return result;
}
