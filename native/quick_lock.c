#include "quick_lock.h"

#include "agent.h"
#include "arguments.h"
#include "delegation.h"

#include <sys/stat.h>
#include <unistd.h>

static const uint32_t FAIR = 4; /* the kind of these locks */

struct quick_lock {
    PyObject_HEAD
    PyObject *slot;    /* a Delegation; NULL if nothing is offered, and so for the next two */
    PyObject *path;    /* bytes */
    PyObject *numbers; /* an iterator: each acquisition has its own */
    struct agent_look look;
    uint64_t device;
    uint64_t inode;
    uint64_t base; /* of handles; a number is added to it */
    struct lock_entry wanted;
    uint64_t number; /* of the grant of what is held quickly, as `wanted` says; 0 for nothing */
    int keeper;      /* a descriptor by which the inode stays in use; -1 for none */
};

static struct quick_lock *
quick_lock_of(PyObject *self)
{
    return (struct quick_lock *)self;
}

static PyObject *
quick_lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    quick_lock_of(self)->keeper = -1;
    if (agent_look_begin(&quick_lock_of(self)->look) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

/* Nothing is offered any more. What is held stays held. */
static void
withdraw(struct quick_lock *self)
{
    Py_CLEAR(self->slot);
    Py_CLEAR(self->path);
    Py_CLEAR(self->numbers);
    if (self->keeper >= 0 && self->number == 0) {
        close(self->keeper);
        self->keeper = -1;
    }
}

static void
quick_lock_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    struct quick_lock *self = quick_lock_of(object);
    self->number = 0;
    withdraw(self);
    agent_look_end(&self->look);
    type->tp_free(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(offer_doc, "_offer($self, slot, path, numbers, base, file, what, keeper, /)\n--\n\n"
                        "From now on lock in this slot; the keeper is ours to close.");

static PyObject *
quick_lock_offer(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_lock *self = quick_lock_of(object);
    unsigned long long device, inode, start, end;
    unsigned int type;
    uint64_t base;
    int64_t keeper;

    if (require_count("_offer", nargs, 7) < 0 ||
        as_unsigned(args[3], "base", UINT64_MAX, &base) < 0 ||
        !PyArg_ParseTuple(args[4], "KK:_offer", &device, &inode) ||
        !PyArg_ParseTuple(args[5], "IKK:_offer", &type, &start, &end) ||
        as_signed(args[6], "keeper", 0, INT32_MAX, &keeper) < 0) {
        return NULL;
    }
    if (delegation_slot(args[0]) == NULL || !PyBytes_Check(args[1]) || !PyIter_Check(args[2]) ||
        type >= SLOT_NONE || start > end || end > INT64_MAX || self->number != 0) {
        PyErr_SetString(PyExc_ValueError, "an offer of what cannot be locked quickly");
        return NULL;
    }
    withdraw(self);
    self->slot = Py_NewRef(args[0]);
    self->path = Py_NewRef(args[1]);
    self->numbers = Py_NewRef(args[2]);
    self->device = device;
    self->inode = inode;
    self->base = base;
    self->wanted = (struct lock_entry){
        .kind = FAIR, .type = type, .start = start, .end = end, .descriptor = -1, .duplicate = -1};
    self->keeper = (int)keeper;
    Py_RETURN_NONE;
}

/* Whether the path leads to the file still. Other threads run meanwhile. */
static bool
is_the_same_file(const struct quick_lock *self)
{
    PyObject *path = Py_NewRef(self->path);
    struct stat found;
    int failed;

    Py_BEGIN_ALLOW_THREADS
    failed = stat(PyBytes_AS_STRING(path), &found);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    return failed == 0 && (uint64_t)found.st_dev == self->device &&
           (uint64_t)found.st_ino == self->inode;
}

/* The next of the numbers; 0 with an exception. */
static uint64_t
next_number(struct quick_lock *self)
{
    PyObject *next = PyIter_Next(self->numbers);
    uint64_t number = 0;
    if (next == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "no number is left for an acquisition");
        }
        return 0;
    }
    if (as_unsigned(next, "number", UINT32_MAX, &number) < 0) {
        number = 0;
    }
    Py_DECREF(next);
    return number;
}

/* 1 if it is locked quickly now, 0 if that is for Python, -1 with an exception. */
static int
take(struct quick_lock *self)
{
    if (self->slot == NULL || self->number != 0) {
        return 0;
    }
    const int64_t agent = agent_here(&self->look);
    if (agent <= 0) {
        return (int)agent; /* a task of asyncio may be the one who asks */
    }
    const bool same = is_the_same_file(self);
    if (self->slot == NULL || self->number != 0) {
        return 0; /* another thread was here */
    }
    struct lock_slot *slot = delegation_slot(self->slot);
    if (!same || slot == NULL) {
        withdraw(self);
        return 0;
    }
    const uint64_t number = next_number(self);
    if (number == 0) {
        return -1;
    }
    self->wanted.handle = self->base + number;
    self->wanted.thread = (uint32_t)agent;
    const int64_t granted = lock_slot_set(slot, &self->wanted);
    if (granted <= 0) {
        return 0;
    }
    self->number = (uint64_t)granted;
    return 1;
}

/* Whether what was locked quickly is unlocked now. */
static bool
give(struct quick_lock *self)
{
    struct lock_slot *slot = self->slot == NULL ? NULL : delegation_slot(self->slot);
    if (self->number == 0 || slot == NULL) {
        return false;
    }
    struct lock_entry nothing = self->wanted;
    nothing.type = SLOT_NONE;
    if (lock_slot_set(slot, &nothing) != 0) {
        return false;
    }
    self->number = 0;
    return true;
}

static PyObject *
quick_lock_take(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const int taken = take(quick_lock_of(self));
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *
quick_lock_give(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(give(quick_lock_of(self)));
}

/* Calls a method of Python's. The name is interned, since the interpreter's cache of methods keeps
 * every other one. */
static PyObject *
call(PyObject *self, const char *method)
{
    PyObject *name = PyUnicode_InternFromString(method);
    if (name == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_CallMethodNoArgs(self, name);
    Py_DECREF(name);
    return result;
}

static PyObject *
quick_lock_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const int taken = take(quick_lock_of(self));
    if (taken < 0) {
        return NULL;
    }
    if (taken == 0) {
        PyObject *token = call(self, "acquire");
        if (token == NULL) {
            return NULL;
        }
        Py_DECREF(token);
    }
    return Py_NewRef(self);
}

/* A signal handler may raise before `release` has done anything; a second time does no harm. The
 * exception stays what it is. */
static void
release_again(PyObject *self)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *result = call(self, "release");
    if (result == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(result);
    PyErr_Restore(type, value, trace);
}

static PyObject *
quick_lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)args;
    (void)nargs;
    if (give(quick_lock_of(self))) {
        Py_RETURN_NONE;
    }
    PyObject *result = call(self, "release");
    if (result == NULL) {
        release_again(self);
    }
    return result;
}

PyDoc_STRVAR(withdraw_doc, "_withdraw($self, /)\n--\n\nNothing is offered any more.");

static PyObject *
quick_lock_withdraw(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    withdraw(quick_lock_of(self));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(take_over_doc, "_take_over($self, /)\n--\n\n"
                            "(handle, number, keeper) of what is held quickly; not ours any more.");

static PyObject *
quick_lock_take_over(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct quick_lock *self = quick_lock_of(object);
    if (self->number == 0) {
        PyErr_SetString(PyExc_ValueError, "nothing is held quickly");
        return NULL;
    }
    PyObject *held = Py_BuildValue("KKi", (unsigned long long)self->wanted.handle,
                                   (unsigned long long)self->number, self->keeper);
    if (held != NULL) {
        self->number = 0;
        self->keeper = -1;
        withdraw(self);
    }
    return held;
}

PyDoc_STRVAR(quick_doc, "The number of the grant of what is held quickly, 0 for nothing.");

static PyObject *
quick_lock_quick(PyObject *self, void *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(quick_lock_of(self)->number);
}

PyDoc_STRVAR(take_doc, "_take($self, /)\n--\n\nLock quickly, if that can be.");
PyDoc_STRVAR(give_doc, "_give($self, /)\n--\n\nUnlock quickly, if that can be.");
PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nTake it.");
PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exc)\n--\n\nGive it back.");

static PyMethodDef quick_lock_methods[] = {
    {"_offer", NATIVE_METHOD(quick_lock_offer), METH_FASTCALL, offer_doc},
    {"_withdraw", quick_lock_withdraw, METH_NOARGS, withdraw_doc},
    {"_take", quick_lock_take, METH_NOARGS, take_doc},
    {"_give", quick_lock_give, METH_NOARGS, give_doc},
    {"_take_over", quick_lock_take_over, METH_NOARGS, take_over_doc},
    {"__enter__", quick_lock_enter, METH_NOARGS, enter_doc},
    {"__exit__", NATIVE_METHOD(quick_lock_exit), METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef quick_lock_getset[] = {
    {"_quick", quick_lock_quick, NULL, quick_doc, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(quick_lock_doc, "QuickLock()\n--\n\n"
                             "What of a file lock needs no Python; see native/quick_lock.h.");

static PyType_Slot quick_lock_slots[] = {
    {Py_tp_doc, (void *)quick_lock_doc},
    {Py_tp_new, quick_lock_new},
    {Py_tp_dealloc, quick_lock_dealloc},
    {Py_tp_methods, quick_lock_methods},
    {Py_tp_getset, quick_lock_getset},
    {0, NULL},
};

static PyType_Spec quick_lock_spec = {
    .name = "libos_ipc._native.QuickLock",
    .basicsize = sizeof(struct quick_lock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_BASETYPE,
    .slots = quick_lock_slots,
};

int
quick_lock_setup(PyObject *module)
{
    return native_add_type(module, &quick_lock_spec);
}
