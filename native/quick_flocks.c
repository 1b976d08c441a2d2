#include "quick_flocks_parts.h"

#include "arguments.h"
#include "delegation.h"

static void quick_flocks_dealloc(PyObject *self);

struct quick_flocks *
quick_flocks_of(PyObject *object)
{
    const bool is_one = Py_TYPE(object)->tp_dealloc == quick_flocks_dealloc;
    return is_one ? (struct quick_flocks *)object : NULL;
}

struct locked *
quick_flocks_free_place(struct quick_flocks *self)
{
    for (unsigned i = 0; i < MOST_LOCKED; i++) {
        if (self->locked[i].duplicate == NULL) {
            return &self->locked[i];
        }
    }
    return NULL;
}

/* ---- offering */

/* The place of this file's offer, or one that is free or whose slot is closed. NULL for none. */
static struct offer *
place_for(struct quick_flocks *self, const struct offer *wanted)
{
    struct offer *place = NULL;

    for (unsigned i = 0; i < MOST_FILES; i++) {
        struct offer *offer = &self->offers[i];
        if (offer->slot == NULL || delegation_slot(offer->slot) == NULL) {
            place = offer;
        } else if (offer->device == wanted->device && offer->inode == wanted->inode) {
            return offer;
        }
    }
    return place;
}

static bool
are_descriptors(const struct quick_flocks *self, PyObject *tuple)
{
    const struct native_state *state = PyType_GetModuleState(Py_TYPE(self));

    for (Py_ssize_t i = 0; PyTuple_CheckExact(tuple) && i < PyTuple_GET_SIZE(tuple); i++) {
        if (Py_TYPE(PyTuple_GET_ITEM(tuple, i)) != (PyTypeObject *)state->descriptor) {
            return false;
        }
    }
    return PyTuple_CheckExact(tuple);
}

PyDoc_STRVAR(offer_doc, "offer($self, turn, device, inode, slot, base, others, /)\n--\n\n"
                        "From now on lock this file in this slot, but not by descriptions of which "
                        "others are duplicates. False if there are too many files, or if all has "
                        "been withdrawn since that turn.");

static PyObject *
quick_flocks_offer(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_flocks *self = quick_flocks_of(object);
    struct offer wanted = {0};
    uint64_t turn;

    if (require_count("offer", nargs, 6) < 0 ||
        as_unsigned(args[0], "turn", UINT64_MAX, &turn) < 0 ||
        as_unsigned(args[1], "device", UINT64_MAX, &wanted.device) < 0 ||
        as_unsigned(args[2], "inode", UINT64_MAX, &wanted.inode) < 0 ||
        as_unsigned(args[4], "base", UINT64_MAX, &wanted.base) < 0) {
        return NULL;
    }
    if (delegation_slot(args[3]) == NULL) {
        PyErr_SetString(PyExc_ValueError, "offer() takes a slot that is open");
        return NULL;
    }
    if (!are_descriptors(self, args[5])) {
        PyErr_SetString(PyExc_TypeError, "offer() takes a tuple of Descriptors");
        return NULL;
    }
    struct offer *place = place_for(self, &wanted);
    if (place == NULL || turn != self->turn) {
        Py_RETURN_FALSE;
    }
    const struct offer before = *place;
    wanted.slot = Py_NewRef(args[3]);
    wanted.others = Py_NewRef(args[5]);
    *place = wanted;
    self->changes++;
    Py_XDECREF(before.slot);
    Py_XDECREF(before.others);
    Py_RETURN_TRUE;
}

/* Closes the offers of a file, or with `all` every one. */
static void
close_offers(struct quick_flocks *self, bool all, uint64_t device, uint64_t inode)
{
    for (unsigned i = 0; i < MOST_FILES; i++) {
        struct offer *offer = &self->offers[i];
        if (all || (offer->device == device && offer->inode == inode)) {
            Py_CLEAR(offer->slot);
            Py_CLEAR(offer->others);
        }
    }
    self->changes++;
    self->turn += all;
}

/* What is locked by descriptions of a file, or with `all` of every one. */
static PyObject *
list_locked(struct quick_flocks *self, bool all, uint64_t device, uint64_t inode)
{
    PyObject *rows = PyList_New(0);

    for (unsigned i = 0; rows != NULL && i < MOST_LOCKED; i++) {
        const struct locked *locked = &self->locked[i];
        if (locked->duplicate == NULL ||
            (!all && (locked->device != device || locked->inode != inode))) {
            continue;
        }
        PyObject *row = Py_BuildValue(
            "KiOKK", (unsigned long long)locked->handle, locked->fd, locked->duplicate,
            (unsigned long long)locked->device, (unsigned long long)locked->inode);
        if (row == NULL || PyList_Append(rows, row) < 0) {
            Py_CLEAR(rows);
        }
        Py_XDECREF(row);
    }
    return rows;
}

PyDoc_STRVAR(withdraw_doc, "withdraw($self, device, inode, /)\n--\n\n"
                           "Lock this file here no more: (handle, fd, duplicate, device, inode) of "
                           "each description of it that has a lock. The same for all files when "
                           "there is no room for more.");

static PyObject *
quick_flocks_withdraw(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_flocks *self = quick_flocks_of(object);
    uint64_t device, inode;

    if (require_count("withdraw", nargs, 2) < 0 ||
        as_unsigned(args[0], "device", UINT64_MAX, &device) < 0 ||
        as_unsigned(args[1], "inode", UINT64_MAX, &inode) < 0) {
        return NULL;
    }
    const bool all = quick_flocks_free_place(self) == NULL;
    close_offers(self, all, device, inode);
    return list_locked(self, all, device, inode);
}

PyDoc_STRVAR(withdraw_all_doc, "withdraw_all($self, /)\n--\n\n"
                               "The same for all files. Offers that were begun before that fail.");

static PyObject *
quick_flocks_withdraw_all(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct quick_flocks *self = quick_flocks_of(object);

    close_offers(self, true, 0, 0);
    return list_locked(self, true, 0, 0);
}

PyDoc_STRVAR(forget_doc, "forget($self, handle, /)\n--\n\n"
                         "This one, which was withdrawn, is known elsewhere now.");

static PyObject *
quick_flocks_forget(PyObject *object, PyObject *argument)
{
    struct quick_flocks *self = quick_flocks_of(object);
    uint64_t handle;

    if (as_unsigned(argument, "handle", UINT64_MAX, &handle) < 0) {
        return NULL;
    }
    for (unsigned i = 0; i < MOST_LOCKED; i++) {
        if (self->locked[i].duplicate != NULL && self->locked[i].handle == handle) {
            self->changes++;
            Py_CLEAR(self->locked[i].duplicate);
        }
    }
    Py_RETURN_NONE;
}

/* ---- the object */

static PyObject *
quick_flocks_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"numbers", "lowest", NULL};
    PyObject *numbers, *lowest;
    int64_t number;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:QuickFlocks", names, &numbers, &lowest) ||
        as_signed(lowest, "lowest", 0, INT32_MAX, &number) < 0) {
        return NULL;
    }
    if (!PyIter_Check(numbers)) {
        PyErr_SetString(PyExc_TypeError, "numbers must be an iterator");
        return NULL;
    }
    PyObject *object = type->tp_alloc(type, 0);
    if (object != NULL) {
        ((struct quick_flocks *)object)->numbers = Py_NewRef(numbers);
        ((struct quick_flocks *)object)->lowest = (int)number;
    }
    return object;
}

static void
quick_flocks_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    struct quick_flocks *self = (struct quick_flocks *)object;

    close_offers(self, true, 0, 0);
    for (unsigned i = 0; i < MOST_LOCKED; i++) {
        Py_CLEAR(self->locked[i].duplicate);
    }
    Py_CLEAR(self->numbers);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *
quick_flocks_get_turn(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(quick_flocks_of(object)->turn);
}

static PyMethodDef quick_flocks_methods[] = {
    {"offer", NATIVE_METHOD(quick_flocks_offer), METH_FASTCALL, offer_doc},
    {"withdraw", NATIVE_METHOD(quick_flocks_withdraw), METH_FASTCALL, withdraw_doc},
    {"withdraw_all", quick_flocks_withdraw_all, METH_NOARGS, withdraw_all_doc},
    {"forget", quick_flocks_forget, METH_O, forget_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef quick_flocks_attributes[] = {
    {"turn", quick_flocks_get_turn, NULL, "How often all was withdrawn.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(quick_flocks_doc,
             "QuickFlocks(numbers, lowest)\n--\n\n"
             "Files locked by `flock` without Python; see native/quick_flocks.h. Handles are made "
             "of the numbers, duplicates are numbered from `lowest` on.");

static PyType_Slot quick_flocks_slots[] = {
    {Py_tp_doc, (void *)quick_flocks_doc},
    {Py_tp_new, quick_flocks_new},
    {Py_tp_dealloc, quick_flocks_dealloc},
    {Py_tp_methods, quick_flocks_methods},
    {Py_tp_getset, quick_flocks_attributes},
    {0, NULL},
};

static PyType_Spec quick_flocks_spec = {
    .name = "libos_ipc._native.QuickFlocks",
    .basicsize = sizeof(struct quick_flocks),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = quick_flocks_slots,
};

int
quick_flocks_setup(PyObject *module)
{
    return native_add_type(module, &quick_flocks_spec);
}
