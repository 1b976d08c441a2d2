#include "local_ids_parts.h"

#include "arguments.h"
#include "clock.h"
#include "lock.h"

PyObject *
local_ids_offer(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t own;

    if (require_count("offer", nargs, 2) < 0 || local_ids_number(args[1], &own) < 0) {
        return NULL;
    }
    if (!lock_check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "the lock of a session is a Lock");
        return NULL;
    }
    Py_XSETREF(local_ids_of(self)->lock, Py_NewRef(args[0]));
    local_ids_of(self)->own = own;
    Py_RETURN_NONE;
}

PyObject *
local_ids_withdraw(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(local_ids_of(self)->lock);
    Py_RETURN_NONE;
}

static bool
may_be_quick(const struct local_ids *self)
{
    return self->lock != NULL && !lock_is_held(self->lock);
}

static double
seconds_now(void)
{
    return (double)now_ns() / NS_PER_S;
}

PyObject *
local_ids_take(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct id_ranges *ids = &local_ids_of(self)->ids;

    if (!may_be_quick(local_ids_of(self)) || (!local_ids_of(self)->asked && id_ranges_low(ids, 1))) {
        Py_RETURN_NONE;
    }
    const int64_t id = id_ranges_new(ids, ids->next <= ids->last ? 0 : seconds_now());
    if (id < 0) {
        return NULL;
    }
    return id == 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(id);
}

/* Whether a range that becomes idle with this release stays here. */
static bool
may_stay(const struct id_ranges *ids)
{
    return ids->idle_count + ids->unopened_count + 1 <= ids->reserve + 2 * (ids->batch - 1);
}

PyObject *
local_ids_put(PyObject *self, PyObject *argument)
{
    struct id_ranges *ids = &local_ids_of(self)->ids;
    uint64_t id;

    if (!may_be_quick(local_ids_of(self)) || !PyLong_CheckExact(argument)) {
        Py_RETURN_FALSE;
    }
    if (local_ids_number(argument, &id) < 0) {
        return NULL;
    }
    const struct id_range *range = id_ranges_live_in(ids, id);
    if (id == local_ids_of(self)->own || range == NULL || (range->pending == 1 && !may_stay(ids))) {
        Py_RETURN_FALSE;
    }
    id_ranges_release(ids, id, seconds_now());
    Py_RETURN_TRUE;
}
