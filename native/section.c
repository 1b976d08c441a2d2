#include "section.h"

#include "arguments.h"
#include "box.h"
#include "quick_handle_parts.h"

#include <string.h>
#include <structmember.h>

struct section {
    PyObject_HEAD
    PyObject *handle;
    PyObject *timeout;
    PyObject *box;    /* NULL unless the block is exclusive, and entered */
    PyObject *before; /* the value as it was found; NULL likewise */
    long state;
    uint32_t agent; /* who has entered */
};

static struct section *
section_of(PyObject *self)
{
    return (struct section *)self;
}

/* ---- entering */

/* The handle has just been locked: what the block is given. Takes the value over. */
static PyObject *
begin_block(struct section *section, PyObject *value)
{
    const struct quick_handle *handle = quick_handle_of(section->handle);

    if (section->state != HANDLE_EXCLUSIVE) {
        return value;
    }
    PyTypeObject *type = (PyTypeObject *)handle->box;
    PyObject *box = type->tp_alloc(type, 0);
    if (box == NULL) {
        Py_DECREF(value);
        quick_handle_give_up(section->handle, section->agent);
        return NULL;
    }
    box_of(box)->value = value;
    Py_XSETREF(section->before, Py_XNewRef(handle->current));
    Py_XSETREF(section->box, Py_NewRef(box));
    return box;
}

/* Locks by Python. The value, NULL with an exception. */
static PyObject *
lock_by_python(struct section *section)
{
    PyObject *method = quick_handle_method(section->handle, "_lock_for_block");
    PyObject *locked = method == NULL ? NULL
                                      : PyObject_CallFunction(method, "lO", section->state,
                                                              section->timeout);
    PyObject *value = NULL;
    unsigned int agent = 0;

    Py_XDECREF(method);
    if (locked != NULL && !PyTuple_Check(locked)) {
        PyErr_SetString(PyExc_TypeError, "_lock_for_block() gives a value, and who has locked it");
    } else if (locked != NULL && PyArg_ParseTuple(locked, "OI", &value, &agent)) {
        section->agent = agent;
        Py_INCREF(value);
    } else {
        value = NULL;
    }
    Py_XDECREF(locked);
    return value;
}

PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nLock, and give what the block is to have.");

static PyObject *
section_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct section *section = section_of(self);
    PyObject *value = NULL;
    const int locked =
        quick_handle_lock_now(section->handle, section->state, &value, &section->agent);

    if (locked == 0) {
        value = lock_by_python(section);
    }
    return value == NULL ? NULL : begin_block(section, value);
}

PyDoc_STRVAR(entered_doc, "_entered($self, value, agent, /)\n--\n\n"
                          "The handle has been locked by this agent: what the block is to have.");

static PyObject *
section_entered(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t agent;

    if (require_count("_entered", nargs, 2) < 0 ||
        as_unsigned(args[1], "agent", UINT32_MAX, &agent) < 0) {
        return NULL;
    }
    section_of(self)->agent = (uint32_t)agent;
    return begin_block(section_of(self), Py_NewRef(args[0]));
}

/* ---- leaving */

static bool
is_same(PyObject *one, PyObject *other)
{
    return PyBytes_GET_SIZE(one) == PyBytes_GET_SIZE(other) &&
           memcmp(PyBytes_AS_STRING(one), PyBytes_AS_STRING(other),
                  (size_t)PyBytes_GET_SIZE(one)) == 0;
}

/* The bytes that a value was, if it has been written, and does not lie in a file; borrowed. */
static PyObject *
bytes_of(PyObject *value)
{
    const bool whole = PyTuple_Check(value) && PyTuple_GET_SIZE(value) == 2 &&
                       PyObject_IsTrue(PyTuple_GET_ITEM(value, 0)) > 0 &&
                       PyBytes_CheckExact(PyTuple_GET_ITEM(value, 1));
    return whole ? PyTuple_GET_ITEM(value, 1) : NULL;
}

/* What is to be committed: bytes, or None if that is nothing. NULL with an exception. */
static PyObject *
find_change(const struct section *section, PyObject *value)
{
    const struct quick_handle *handle = quick_handle_of(section->handle);
    PyObject *before = section->before;

    if (handle->known == before && handle->decoded == value) {
        return Py_NewRef(Py_None);
    }
    PyObject *former = bytes_of(before);
    PyObject *data = former == NULL ? NULL : quick_handle_encode(handle, value);
    if (data != NULL && is_same(former, data)) {
        Py_SETREF(data, Py_NewRef(Py_None));
    }
    if (data != NULL) {
        return data;
    }
    PyObject *method = quick_handle_method(section->handle, "_changed");
    data = method == NULL ? NULL : PyObject_CallFunctionObjArgs(method, before, value, NULL);
    Py_XDECREF(method);
    if (data != NULL && data != Py_None && !PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "a value is encoded to bytes");
        Py_CLEAR(data);
    }
    return data;
}

/* Unlocks, with this data or None. NULL with an exception; it is not locked any more then, either. */
static PyObject *
unlock(struct section *section, PyObject *data, PyObject *value)
{
    struct quick_handle *handle = quick_handle_of(section->handle);
    const int done = quick_handle_unlock_now(handle, section->agent,
                                             data == Py_None ? NULL : data, value);
    if (done > 0) {
        Py_RETURN_NONE;
    }
    PyErr_Clear(); /* memory was short: perhaps it is not by now */
    PyObject *method = quick_handle_method(section->handle, "_leave");
    PyObject *result = method == NULL ? NULL
                                      : PyObject_CallFunction(method, "IO",
                                                              (unsigned int)section->agent, data);
    Py_XDECREF(method);
    if (result == NULL) {
        quick_handle_give_up(section->handle, section->agent);
    }
    return result;
}

PyDoc_STRVAR(exit_doc, "__exit__($self, kind, error, trace, /)\n--\n\n"
                       "Commit, unless the block has raised, and unlock.");

static PyObject *
section_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct section *section = section_of(self);
    PyObject *value = NULL;
    PyObject *data = Py_NewRef(Py_None);

    if (require_count("__exit__", nargs, 3) < 0) {
        Py_DECREF(data);
        return NULL;
    }
    if (section->box != NULL && section->before != NULL && args[1] == Py_None &&
        box_of(section->box)->value != NULL) {
        value = Py_NewRef(box_of(section->box)->value);
        Py_SETREF(data, find_change(section, value));
    }
    PyObject *result = NULL;
    if (data == NULL) {
        quick_handle_give_up(section->handle, section->agent);
    } else {
        result = unlock(section, data, value);
    }
    Py_XDECREF(data);
    Py_XDECREF(value);
    return result;
}

/* ---- the object */

static int
section_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(section_of(self)->handle);
    Py_VISIT(section_of(self)->timeout);
    Py_VISIT(section_of(self)->box);
    Py_VISIT(section_of(self)->before);
    return 0;
}

static void
section_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    Py_CLEAR(section_of(self)->handle);
    Py_CLEAR(section_of(self)->timeout);
    Py_CLEAR(section_of(self)->box);
    Py_CLEAR(section_of(self)->before);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
section_make(PyTypeObject *type, PyObject *handle, long state, PyObject *timeout)
{
    PyObject *made = type->tp_alloc(type, 0);

    if (made != NULL) {
        section_of(made)->handle = Py_NewRef(handle);
        section_of(made)->timeout = Py_NewRef(timeout);
        section_of(made)->state = state;
    }
    return made;
}

static PyObject *
section_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"handle", "state", "timeout", NULL};
    PyObject *handle;
    PyObject *timeout = Py_None;
    long state;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ol|O:Section", names, &handle, &state,
                                     &timeout)) {
        return NULL;
    }
    if (!quick_handle_check(handle) || quick_handle_of(handle)->box == NULL) {
        PyErr_SetString(PyExc_TypeError, "a section is of a handle that has a shape");
        return NULL;
    }
    return section_make(type, handle, state, timeout);
}

/* A block of this handle's, in this state. */
static PyObject *
make_section(PyObject *self, long state, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    const struct parameters wanted = {
        state == HANDLE_SHARED ? "shared" : "exclusive", 0, 1, {"timeout"}};
    const struct quick_handle *handle = quick_handle_of(self);
    PyObject *bound[MOST_PARAMETERS];

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    if (handle->section == NULL) {
        PyErr_SetString(PyExc_TypeError, "this handle has no shape");
        return NULL;
    }
    return section_make((PyTypeObject *)handle->section, self, state,
                        bound[0] == NULL ? Py_None : bound[0]);
}

PyObject *
quick_handle_shared(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return make_section(self, HANDLE_SHARED, args, nargs, kwnames);
}

PyObject *
quick_handle_exclusive(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return make_section(self, HANDLE_EXCLUSIVE, args, nargs, kwnames);
}

static PyMethodDef section_methods[] = {
    {"__enter__", section_enter, METH_NOARGS, enter_doc},
    {"__exit__", NATIVE_METHOD(section_exit), METH_FASTCALL, exit_doc},
    {"_entered", NATIVE_METHOD(section_entered), METH_FASTCALL, entered_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef section_members[] = {
    {"_handle", T_OBJECT, offsetof(struct section, handle), READONLY, "What it locks."},
    {"_state", T_LONG, offsetof(struct section, state), READONLY, "As what."},
    {"_timeout", T_OBJECT, offsetof(struct section, timeout), READONLY, "How long it waits for it."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(section_doc, "QuickSection(handle, state, timeout=None)\n--\n\n"
                          "A block in which a handle is locked; see native/section.h.");

static PyType_Slot section_slots[] = {
    {Py_tp_doc, (void *)section_doc},
    {Py_tp_new, section_new},
    {Py_tp_dealloc, section_dealloc},
    {Py_tp_traverse, section_traverse},
    {Py_tp_methods, section_methods},
    {Py_tp_members, section_members},
    {0, NULL},
};

static PyType_Spec section_spec = {
    .name = "libos_ipc._native.QuickSection",
    .basicsize = sizeof(struct section),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = section_slots,
};

bool
section_check_types(PyObject *section, PyObject *box)
{
    return native_is_kind(section, section_dealloc) && box_check_type(box);
}

int
section_setup(PyObject *module)
{
    return native_add_type(module, &section_spec);
}
