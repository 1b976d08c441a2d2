#include "local_ids_parts.h"

#include "arguments.h"

#include <structmember.h>

static struct id_ranges *
ids_of(PyObject *self)
{
    return &local_ids_of(self)->ids;
}

static PyObject *
local_ids_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"quarantine_s", "reserve", NULL};
    double quarantine_s = -1;
    long long reserve = 1;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$dL", names,
                                     &quarantine_s, &reserve)) {
        return NULL;
    }
    if (reserve < 0 || !(quarantine_s >= 0)) {
        PyErr_SetString(PyExc_ValueError, "reserve or quarantine_s is below 0");
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        id_ranges_init(ids_of(self));
        ids_of(self)->quarantine_s = quarantine_s;
        ids_of(self)->reserve = (uint64_t)reserve;
    }
    return self;
}

static void
local_ids_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    id_ranges_clear(ids_of(self));
    Py_CLEAR(local_ids_of(self)->lock);
    type->tp_free(self);
    Py_DECREF(type);
}

int
local_ids_number(PyObject *value, uint64_t *id)
{
    if (as_unsigned(value, "an ID", UINT32_MAX, id) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
        *id = 0;
    }
    return 0;
}

/* ---- the machine */

static PyObject *
new_method(PyObject *self, PyObject *argument)
{
    double now;

    if (as_seconds(argument, &now) < 0) {
        return NULL;
    }
    const int64_t id = id_ranges_new(ids_of(self), now);
    if (id < 0) {
        return NULL;
    }
    return id == 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(id);
}

/* Parts with what is beyond the reserve; a list of bounds. A range that cannot be entered stays. */
static PyObject *
part_with_surplus(struct id_ranges *ids)
{
    PyObject *list = PyList_New(0);
    struct id_range *range = id_ranges_surplus(ids);

    for (; list != NULL && range != NULL; range = id_ranges_surplus(ids)) {
        PyObject *bounds = Py_BuildValue("II", range->start, range->end);
        if (bounds == NULL || PyList_Append(list, bounds) < 0) {
            Py_CLEAR(list);
        } else {
            id_ranges_part(ids, range);
        }
        Py_XDECREF(bounds);
    }
    return list;
}

static PyObject *
release_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct id_ranges *ids = ids_of(self);
    uint64_t id;
    double now;

    if (require_count("release", nargs, 2) < 0 || local_ids_number(args[0], &id) < 0 ||
        as_seconds(args[1], &now) < 0) {
        return NULL;
    }
    const uint64_t idle = ids->idle_count;
    switch (id_ranges_release(ids, id, now)) {
    case ID_NOT_OURS:
        Py_RETURN_NONE;
    case ID_NOT_LIVE:
        return PyErr_Format(PyExc_ValueError, "releasing ID %llu: it is not handed out",
                            (unsigned long long)id);
    case ID_RELEASED:
        break;
    }
    const bool due = ids->idle_count > idle && id_ranges_have_surplus(ids);
    return due ? part_with_surplus(ids) : PyList_New(0);
}

static PyObject *
surplus_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return part_with_surplus(ids_of(self));
}

static PyObject *
owns_method(PyObject *self, PyObject *argument)
{
    uint64_t id;

    if (local_ids_number(argument, &id) < 0) {
        return NULL;
    }
    return PyBool_FromLong(id_ranges_find(ids_of(self), id) != NULL);
}

static PyObject *
in_use_method(PyObject *self, PyObject *argument)
{
    uint64_t id;

    if (local_ids_number(argument, &id) < 0) {
        return NULL;
    }
    return PyBool_FromLong(id_ranges_live_in(ids_of(self), id) != NULL);
}

static PyObject *
grant_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t start, end;

    if (require_count("grant", nargs, 2) < 0 || local_ids_number(args[0], &start) < 0 ||
        local_ids_number(args[1], &end) < 0) {
        return NULL;
    }
    const int granted = id_ranges_grant(ids_of(self), start, end);
    if (granted == 0) {
        PyErr_Format(PyExc_ValueError, "granted IDs %S-%S: no range, or some of them are here",
                     args[0], args[1]);
    }
    return granted > 0 ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
low_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(id_ranges_low(ids_of(self), 0));
}

static PyObject *
ranges_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct id_ranges *ids = ids_of(self);
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list != NULL && i < ids->count; i++) {
        PyObject *bounds = Py_BuildValue("II", ids->sorted[i]->start, ids->sorted[i]->end);
        if (bounds == NULL || PyList_Append(list, bounds) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(bounds);
    }
    return list;
}

static PyObject *
drain_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *ranges = ranges_method(self, NULL);

    if (ranges != NULL) {
        id_ranges_clear(ids_of(self));
    }
    return ranges;
}

static PyObject *
moved_away_method(PyObject *self, PyObject *argument)
{
    uint64_t id;

    if (local_ids_number(argument, &id) < 0 || id_ranges_move_away(ids_of(self), id) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
check_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const char *broken = id_ranges_broken(ids_of(self));

    if (broken != NULL) {
        PyErr_SetString(PyExc_AssertionError, broken);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(new_doc, "new($self, now, /)\n--\n\n"
                      "The next ID, or None: ask the leader for a range first, and `grant` it.");
PyDoc_STRVAR(release_doc, "release($self, id, now, /)\n--\n\n"
                          "Take an ID back; the ranges to give back to the leader now. None if it "
                          "is not of our ranges; ValueError if it is, but not handed out.");
PyDoc_STRVAR(surplus_doc, "surplus($self, /)\n--\n\n"
                          "Part with all that is beyond the reserve: ranges to give back.");
PyDoc_STRVAR(owns_doc, "owns($self, id, /)\n--\n\n"
                       "Whether the ID is in one of our ranges, handed out or not.");
PyDoc_STRVAR(in_use_doc, "in_use($self, id, /)\n--\n\n"
                         "Whether the ID was handed out here and not released since.");
PyDoc_STRVAR(grant_doc, "grant($self, start, end, /)\n--\n\n"
                        "A range has come. ValueError if it is none, or overlaps ours.");
PyDoc_STRVAR(low_doc, "low($self, /)\n--\n\nWhether it is time to ask for more.");
PyDoc_STRVAR(ranges_doc, "ranges($self, /)\n--\n\nThe bounds of all ranges, ascending.");
PyDoc_STRVAR(drain_doc, "drain($self, /)\n--\n\n"
                        "Give up all ranges, whatever of them is in use.");
PyDoc_STRVAR(moved_away_doc, "moved_away($self, id, /)\n--\n\n"
                             "The ID belongs to another process now: its range splits.");
PyDoc_STRVAR(check_doc, "check($self, /)\n--\n\nAssert the invariants.");
PyDoc_STRVAR(offer_doc, "offer($self, lock, own, /)\n--\n\n"
                        "Let `take` and `put` work while nobody holds this lock. `own` is the "
                        "ID that the process itself has.");
PyDoc_STRVAR(withdraw_doc, "withdraw($self, /)\n--\n\nThey work no more.");
PyDoc_STRVAR(take_doc, "take($self, /)\n--\n\nThe next ID, or None if that is Python's business.");
PyDoc_STRVAR(put_doc, "put($self, id, /)\n--\n\nRelease an ID. False if that is Python's business.");

static PyMethodDef local_ids_methods[] = {
    {"new", new_method, METH_O, new_doc},
    {"release", NATIVE_METHOD(release_method), METH_FASTCALL, release_doc},
    {"surplus", surplus_method, METH_NOARGS, surplus_doc},
    {"owns", owns_method, METH_O, owns_doc},
    {"in_use", in_use_method, METH_O, in_use_doc},
    {"grant", NATIVE_METHOD(grant_method), METH_FASTCALL, grant_doc},
    {"low", low_method, METH_NOARGS, low_doc},
    {"ranges", ranges_method, METH_NOARGS, ranges_doc},
    {"drain", drain_method, METH_NOARGS, drain_doc},
    {"moved_away", moved_away_method, METH_O, moved_away_doc},
    {"check", check_method, METH_NOARGS, check_doc},
    {"offer", NATIVE_METHOD(local_ids_offer), METH_FASTCALL, offer_doc},
    {"withdraw", local_ids_withdraw, METH_NOARGS, withdraw_doc},
    {"take", local_ids_take, METH_NOARGS, take_doc},
    {"put", local_ids_put, METH_O, put_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *
get_batch(PyObject *self, void *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(ids_of(self)->batch);
}

static int
set_batch(PyObject *self, PyObject *value, void *Py_UNUSED(ignored))
{
    uint64_t batch;

    if (as_unsigned(value != NULL ? value : Py_None, "a batch", UINT8_MAX, &batch) < 0) {
        return -1;
    }
    if (batch == 0) {
        PyErr_SetString(PyExc_ValueError, "a batch is one range or more");
        return -1;
    }
    ids_of(self)->batch = batch;
    return 0;
}

static PyGetSetDef local_ids_getset[] = {
    {"batch", get_batch, set_batch, "Ranges asked for, and given back, at a time.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef local_ids_members[] = {
    {"asked", T_BOOL, offsetof(struct local_ids, asked), 0, "Whether ranges are on their way."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(local_ids_doc, "LocalIds(*, quarantine_s, reserve=1)\n--\n\n"
                            "One process's own IDs; see native/local_ids.h.");

static PyType_Slot local_ids_slots[] = {
    {Py_tp_doc, (void *)local_ids_doc},
    {Py_tp_new, local_ids_new},
    {Py_tp_dealloc, local_ids_dealloc},
    {Py_tp_methods, local_ids_methods},
    {Py_tp_getset, local_ids_getset},
    {Py_tp_members, local_ids_members},
    {0, NULL},
};

static PyType_Spec local_ids_spec = {
    .name = "libos_ipc._native.LocalIds",
    .basicsize = sizeof(struct local_ids),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = local_ids_slots,
};

int
local_ids_setup(PyObject *module)
{
    return native_add_type(module, &local_ids_spec);
}
