#include "quick_handle.h"

#include "arguments.h"
#include "exchange.h"
#include "quick_handle_parts.h"
#include "record.h"
#include "section.h"

#include <structmember.h>

static PyObject *
quick_handle_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return type->tp_alloc(type, 0);
}

static int
quick_handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    const struct quick_handle *handle = quick_handle_of(self);

    Py_VISIT(Py_TYPE(self));
    Py_VISIT(handle->cell);
    Py_VISIT(handle->exchange);
    Py_VISIT(handle->look.get_loop);
    Py_VISIT(handle->current);
    Py_VISIT(handle->known);
    Py_VISIT(handle->decoded);
    Py_VISIT(handle->plain);
    Py_VISIT(handle->encode);
    Py_VISIT(handle->section);
    Py_VISIT(handle->box);
    return 0;
}

static void
unbind(struct quick_handle *handle)
{
    Py_CLEAR(handle->cell);
    Py_CLEAR(handle->exchange);
    agent_look_end(&handle->look);
}

static int
quick_handle_clear(PyObject *self)
{
    struct quick_handle *handle = quick_handle_of(self);

    unbind(handle);
    Py_CLEAR(handle->current);
    Py_CLEAR(handle->known);
    Py_CLEAR(handle->decoded);
    Py_CLEAR(handle->plain);
    Py_CLEAR(handle->encode);
    Py_CLEAR(handle->section);
    Py_CLEAR(handle->box);
    return 0;
}

static void
quick_handle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    quick_handle_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is known by what ends it, or ends what it is the base of. */
bool
quick_handle_check(PyObject *object)
{
    for (const PyTypeObject *type = Py_TYPE(object); type != NULL; type = type->tp_base) {
        if (type->tp_dealloc == quick_handle_dealloc) {
            return true;
        }
    }
    return false;
}

/* ---- what Python says */

PyDoc_STRVAR(bind_doc, "_bind($self, cell, exchange, /)\n--\n\n"
                       "The handle is open, and this is what this process has of it.");

static PyObject *
quick_handle_bind(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_handle *handle = quick_handle_of(self);

    if (require_count("_bind", nargs, 2) < 0) {
        return NULL;
    }
    if (handle_cell_of(args[0]) == NULL || !exchange_check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "_bind() takes a HandleCell and an Exchange");
        return NULL;
    }
    unbind(handle);
    if (agent_look_begin(&handle->look) < 0) {
        return NULL;
    }
    handle->cell = Py_NewRef(args[0]);
    handle->exchange = Py_NewRef(args[1]);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(unbind_doc, "_unbind($self, /)\n--\n\nThe handle is closed.");

static PyObject *
quick_handle_unbind(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    unbind(quick_handle_of(self));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(know_doc, "_know($self, value, decoded, /)\n--\n\n"
                       "This is what this value decodes to, each time.");

static PyObject *
quick_handle_know(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_handle *handle = quick_handle_of(self);

    if (require_count("_know", nargs, 2) < 0) {
        return NULL;
    }
    Py_XSETREF(handle->known, Py_NewRef(args[0]));
    Py_XSETREF(handle->decoded, Py_NewRef(args[1]));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(shape_doc, "_shape($self, section, box, plain, encode, limit, /)\n--\n\n"
                        "The types of blocks and boxes; the type of the values if they are plain, else "
                        "None, and what encodes them; and how many bytes of one may be committed.");

static PyObject *
quick_handle_shape(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_handle *handle = quick_handle_of(self);
    uint64_t limit;

    if (require_count("_shape", nargs, 5) < 0 ||
        as_unsigned(args[4], "limit", UINT64_MAX, &limit) < 0) {
        return NULL;
    }
    if (!section_check_types(args[0], args[1])) {
        PyErr_SetString(PyExc_TypeError, "_shape() takes a kind of QuickSection, and of QuickBox");
        return NULL;
    }
    Py_XSETREF(handle->section, Py_NewRef(args[0]));
    Py_XSETREF(handle->box, Py_NewRef(args[1]));
    Py_XSETREF(handle->plain, Py_NewRef(args[2]));
    Py_XSETREF(handle->encode, Py_NewRef(args[3]));
    handle->limit = limit;
    Py_RETURN_NONE;
}

/* ---- locking */

struct handle_cell *
quick_handle_cell(const struct quick_handle *handle)
{
    if (handle->cell == NULL || !exchange_is_free(handle->exchange)) {
        return NULL;
    }
    struct handle_cell *cell = (struct handle_cell *)handle->cell;
    return cell->opened > 0 && cell->value != NULL ? cell : NULL;
}

int64_t
quick_handle_agent(struct quick_handle *handle)
{
    return handle->cell == NULL ? 0 : agent_here(&handle->look);
}

/* The name is interned, since the interpreter's cache of methods keeps every other one. */
PyObject *
quick_handle_method(PyObject *self, const char *name)
{
    PyObject *interned = PyUnicode_InternFromString(name);
    PyObject *method = interned == NULL ? NULL : PyObject_GetAttr(self, interned);

    Py_XDECREF(interned);
    return method;
}

void
quick_handle_give_up(PyObject *self, uint32_t agent)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *method = quick_handle_method(self, "_give_up");
    PyObject *result =
        method == NULL ? NULL : PyObject_CallFunction(method, "I", (unsigned int)agent);
    Py_XDECREF(method);
    if (result == NULL) {
        PyErr_WriteUnraisable(self);
    }
    Py_XDECREF(result);
    PyErr_Restore(type, value, trace);
}

/* The value that has just been locked, decoded. NULL with an exception; then it is not locked. */
static PyObject *
decode(PyObject *self, PyObject *value, uint32_t agent)
{
    struct quick_handle *handle = quick_handle_of(self);

    if (handle->current != value) {
        Py_XSETREF(handle->current, Py_NewRef(value));
    }
    if (handle->known == value) {
        return Py_NewRef(handle->decoded);
    }
    PyObject *locked = Py_NewRef(value);
    PyObject *method = quick_handle_method(self, "_decode");
    PyObject *decoded = method == NULL ? NULL : PyObject_CallOneArg(method, locked);
    Py_XDECREF(method);
    Py_DECREF(locked);
    if (decoded == NULL) {
        quick_handle_give_up(self, agent);
    }
    return decoded;
}

/* Takes the lock in the cell, and says in the record that it is taken to change the value; or takes it by
 * the baton, if there is one. 1, 0 if that is for Python, -1 with MemoryError. */
static int
take(struct handle_cell *cell, uint32_t agent, long state)
{
    if (state == HANDLE_SHARED) {
        return handle_cell_lock(cell, agent, HANDLE_SHARED);
    }
    if (state == HANDLE_EXCLUSIVE && cell->baton != NULL && cell->baton != Py_None) {
        return handle_cell_take(cell, agent);
    }
    struct record *record = record_of(cell->record);
    if (state != HANDLE_EXCLUSIVE || record == NULL ||
        !handle_cell_lock(cell, agent, HANDLE_EXCLUSIVE)) {
        return 0;
    }
    record_set_use(record, true);
    return 1;
}

int
quick_handle_lock_now(PyObject *self, long state, PyObject **value, uint32_t *agent)
{
    struct quick_handle *handle = quick_handle_of(self);
    const int64_t here = quick_handle_agent(handle);

    if (here <= 0) {
        return (int)here;
    }
    *agent = (uint32_t)here;
    struct handle_cell *cell = quick_handle_cell(handle);
    const int taken = cell == NULL ? 0 : take(cell, *agent, state);
    if (taken <= 0) {
        return taken;
    }
    *value = decode(self, cell->value, *agent);
    return *value == NULL ? -1 : 1;
}

PyDoc_STRVAR(
    lock_doc,
    "lock($self, /, state, timeout=None)\n--\n\n"
    "Lock in this state, and give the newest value; `unlock` follows, in the same thread.\n\n"
    "Blocks; a signal handler that raises ends that. With a timeout of 0 it waits for nobody who\n"
    "uses the handle, only for processes that keep it unused, a few milliseconds. WouldBlock\n"
    "then, else Timeout. Deadlock if this thread uses it already or a cycle of waiters would\n"
    "close. OwnerDied, once, if the one who changed it died and the handle was opened with\n"
    "`on_owner_death=\"raise\"`. NotJoined if the handle or the group is closed, or was opened\n"
    "before a fork. LeaderLost. ProtocolError if what is there is not of our type. After an\n"
    "error it is not locked.");

static PyObject *
quick_handle_lock(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    uint32_t agent;

    if (nargs >= 1 && nargs <= 2 && kwnames == NULL && PyLong_Check(args[0])) {
        PyObject *value;
        int overflow;
        const long state = PyLong_AsLongAndOverflow(args[0], &overflow);
        const int locked = quick_handle_lock_now(self, state, &value, &agent);
        if (locked != 0) {
            return locked < 0 ? NULL : value;
        }
    }
    PyObject *method = quick_handle_method(self, "_lock");
    if (method == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_Vectorcall(method, args, (size_t)nargs, kwnames);
    Py_DECREF(method);
    return result;
}

PyDoc_STRVAR(
    unlock_doc,
    "unlock($self, /, value=<unchanged>)\n--\n\n"
    "Unlock, with a new value if one is given: it is committed when this returns.\n\n"
    "Errors as at the end of an `exclusive` block, and InvalidArgument for a new value under\n"
    "SHARED; then it is still locked, and nothing has changed. PermissionDenied if this thread\n"
    "or task does not use the handle.");

PyDoc_STRVAR(
    shared_doc,
    "shared($self, /, timeout=None)\n--\n\n"
    "Read: `with handle.shared() as value`, or `async with`. Nobody changes it meanwhile.\n\n"
    "Who changes the value in place changes only what he was given. Errors as of `lock`.");

PyDoc_STRVAR(
    exclusive_doc,
    "exclusive($self, /, timeout=None)\n--\n\n"
    "Change: `with handle.exclusive() as box: box.value = …`, or `async with`.\n\n"
    "It is committed at the end of the block; an exception in the block rolls the value back,\n"
    "and so does one at its end: InvalidArgument if it is not of the handle's type,\n"
    "MessageTooLarge if it is over `max_message` bytes, OSError if memory is full, NotJoined if\n"
    "the handle was closed meanwhile. The lock is given up in any case. What has not been\n"
    "changed is no new version. Errors at its beginning as of `lock`; Deadlock if this thread\n"
    "or task holds it SHARED.");

static PyObject *
quick_handle_user(PyObject *self, void *Py_UNUSED(ignored))
{
    const struct handle_cell *cell = (struct handle_cell *)quick_handle_of(self)->cell;

    return PyLong_FromUnsignedLong(cell == NULL ? 0 : cell->user);
}

static PyGetSetDef quick_handle_getset[] = {
    {"_user", quick_handle_user, NULL, "Who uses the handle here; 0 for nobody, or nobody known.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef quick_handle_methods[] = {
    {"_shape", NATIVE_METHOD(quick_handle_shape), METH_FASTCALL, shape_doc},
    {"_bind", NATIVE_METHOD(quick_handle_bind), METH_FASTCALL, bind_doc},
    {"_unbind", quick_handle_unbind, METH_NOARGS, unbind_doc},
    {"_know", NATIVE_METHOD(quick_handle_know), METH_FASTCALL, know_doc},
    {"lock", NATIVE_METHOD(quick_handle_lock), METH_FASTCALL | METH_KEYWORDS, lock_doc},
    {"unlock", NATIVE_METHOD(quick_handle_unlock), METH_FASTCALL | METH_KEYWORDS, unlock_doc},
    {"shared", NATIVE_METHOD(quick_handle_shared), METH_FASTCALL | METH_KEYWORDS, shared_doc},
    {"exclusive", NATIVE_METHOD(quick_handle_exclusive), METH_FASTCALL | METH_KEYWORDS,
     exclusive_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef quick_handle_members[] = {
    {"_current", T_OBJECT, offsetof(struct quick_handle, current), 0,
     "The value as of the last lock here."},
    {"_known", T_OBJECT, offsetof(struct quick_handle, known), READONLY,
     "A value that was decoded, None for none."},
    {"_decoded", T_OBJECT, offsetof(struct quick_handle, decoded), READONLY,
     "What it decodes to, each time."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(quick_handle_doc, "QuickHandle()\n--\n\n"
                               "What of a sync handle needs no Python; see native/quick_handle.h.");

static PyType_Slot quick_handle_slots[] = {
    {Py_tp_doc, (void *)quick_handle_doc},
    {Py_tp_new, quick_handle_new},
    {Py_tp_dealloc, quick_handle_dealloc},
    {Py_tp_traverse, quick_handle_traverse},
    {Py_tp_clear, quick_handle_clear},
    {Py_tp_methods, quick_handle_methods},
    {Py_tp_members, quick_handle_members},
    {Py_tp_getset, quick_handle_getset},
    {0, NULL},
};

static PyType_Spec quick_handle_spec = {
    .name = "libos_ipc._native.QuickHandle",
    .basicsize = sizeof(struct quick_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = quick_handle_slots,
};

int
quick_handle_setup(PyObject *module)
{
    return native_add_type(module, &quick_handle_spec);
}
