#include "quick_lock.h"

#include "quick_lock_parts.h"

#include "arguments.h"
#include "clock.h"
#include "delegation.h"
#include "thread_number.h"
#include "turns_object.h"

static const uint32_t FAIR = 4; /* the kind of these locks */

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
    if (agent_look_begin(&quick_lock_of(self)->look) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static void
quick_lock_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    struct quick_lock *self = quick_lock_of(object);
    self->number = 0;
    quick_lock_withdraw(self);
    agent_look_end(&self->look);
    type->tp_free(object);
    Py_DECREF(type);
}

/* Seconds, or None for ever: below 0. -1 with an exception. */
static int
as_timeout(PyObject *given, double *timeout)
{
    *timeout = given == Py_None ? -1.0 : PyFloat_AsDouble(given);
    if (*timeout == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    *timeout = given != Py_None && *timeout < 0 ? 0.0 : *timeout;
    return 0;
}

PyDoc_STRVAR(offer_doc,
             "_offer($self, slot, path, numbers, base, file, what, keeper, timeout, /)\n--\n\n"
             "From now on lock in this slot, and keep the keeper.");

static PyObject *
quick_lock_offer(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_lock *self = quick_lock_of(object);
    unsigned long long device, inode, start, end;
    unsigned int type;
    uint64_t base;
    double timeout;

    if (require_count("_offer", nargs, 8) < 0 || as_timeout(args[7], &timeout) < 0 ||
        as_unsigned(args[3], "base", UINT64_MAX, &base) < 0 ||
        !PyArg_ParseTuple(args[4], "KK:_offer", &device, &inode) ||
        !PyArg_ParseTuple(args[5], "IKK:_offer", &type, &start, &end)) {
        return NULL;
    }
    if ((delegation_slot(args[0]) == NULL && !is_turns(args[0])) || !PyBytes_Check(args[1]) || !PyIter_Check(args[2]) ||
        type >= SLOT_NONE || start > end || end > INT64_MAX || self->number != 0) {
        PyErr_SetString(PyExc_ValueError, "an offer of what cannot be locked quickly");
        return NULL;
    }
    quick_lock_withdraw(self);
    self->slot = Py_NewRef(args[0]);
    self->path = Py_NewRef(args[1]);
    self->numbers = Py_NewRef(args[2]);
    self->device = device;
    self->inode = inode;
    self->base = base;
    self->wanted = (struct lock_entry){
        .kind = FAIR, .type = type, .start = start, .end = end, .descriptor = -1, .duplicate = -1};
    self->keeper = Py_NewRef(args[6]);
    self->timeout = timeout;
    Py_RETURN_NONE;
}

static PyObject *
quick_lock_take_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    double timeout = quick_lock_of(self)->timeout;

    if (nargs > 1 || (nargs == 1 && args[0] != Py_None && as_timeout(args[0], &timeout) < 0)) {
        return nargs > 1 ? PyErr_Format(PyExc_TypeError, "_take() takes one argument") : NULL;
    }
    const int taken = quick_lock_take(quick_lock_of(self), timeout);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *
quick_lock_give_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(quick_lock_give(quick_lock_of(self)));
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

/* A signal handler may raise before a method has done anything; a second time does no harm. The
 * exception stays what it is. */
static void
make_sure(PyObject *self, const char *method)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *result = call(self, method);
    if (result == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(result);
    PyErr_Restore(type, value, trace);
}

static PyObject *
quick_lock_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const int taken = quick_lock_take(quick_lock_of(self), quick_lock_of(self)->timeout);
    if (taken < 0) {
        return NULL;
    }
    if (taken == 0) {
        PyObject *token = call(self, "acquire");
        if (token == NULL) {
            if (quick_lock_of(self)->asked != 0) {
                make_sure(self, "_leave_turns");
            }
            return NULL;
        }
        Py_DECREF(token);
    }
    return Py_NewRef(self);
}

static PyObject *
quick_lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)args;
    (void)nargs;
    if (quick_lock_give(quick_lock_of(self))) {
        Py_RETURN_NONE;
    }
    PyObject *result = call(self, "release");
    if (result == NULL) {
        make_sure(self, "release");
    }
    return result;
}

PyDoc_STRVAR(withdraw_doc, "_withdraw($self, /)\n--\n\nNothing is offered any more.");

static PyObject *
quick_lock_withdraw_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    quick_lock_withdraw(quick_lock_of(self));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(take_over_doc, "_take_over($self, /)\n--\n\n"
                            "(handle, number, keeper) of what is held quickly, and not given back so "
                            "any more. Again, if a signal handler raises: until `_taken_over`.");

static PyObject *
quick_lock_take_over(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct quick_lock *self = quick_lock_of(object);
    if (self->number == 0) {
        PyErr_SetString(PyExc_ValueError, "nothing is held quickly");
        return NULL;
    }
    PyObject *held = Py_BuildValue("KKO", (unsigned long long)self->wanted.handle,
                                   (unsigned long long)self->number, self->keeper);
    self->leaves = held != NULL;
    return held;
}

PyDoc_STRVAR(taken_over_doc, "_taken_over($self, /)\n--\n\n"
                             "It is Python's: nothing is held quickly, and nothing offered.");

static PyObject *
quick_lock_taken_over(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct quick_lock *self = quick_lock_of(object);
    self->number = 0;
    self->leaves = false;
    quick_lock_withdraw(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(quick_doc, "The number of the grant of what is held quickly, 0 for nothing.");

static PyObject *
quick_lock_quick(PyObject *self, void *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(quick_lock_of(self)->number);
}

PyDoc_STRVAR(asked_doc, "(handle, device, inode) of this thread's acquisition that may wait in "
                        "turns still, or None.");

static PyObject *
quick_lock_asked(PyObject *object, void *Py_UNUSED(ignored))
{
    const struct quick_lock *self = quick_lock_of(object);

    if (self->asked == 0 || self->wanted.thread != thread_number()) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("KKK", (unsigned long long)self->asked, (unsigned long long)self->device,
                         (unsigned long long)self->inode);
}

PyDoc_STRVAR(until_doc, "Until when, of time.monotonic(), that acquisition waits; None for no such time.");

static PyObject *
quick_lock_until(PyObject *object, void *Py_UNUSED(ignored))
{
    const struct quick_lock *self = quick_lock_of(object);

    if (self->asked == 0 || self->wanted.thread != thread_number() || self->until == 0 ||
        self->until == INT64_MAX) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble((double)self->until / NS_PER_S);
}

PyDoc_STRVAR(mine_doc, "The number of the grant of what this thread holds quickly, 0 for nothing.");

static PyObject *
quick_lock_mine(PyObject *object, void *Py_UNUSED(ignored))
{
    const struct quick_lock *self = quick_lock_of(object);
    const bool mine = self->number != 0 && self->wanted.thread == thread_number();

    return PyLong_FromUnsignedLongLong(mine ? self->number : 0);
}

PyDoc_STRVAR(settled_doc, "_settled($self, /)\n--\n\nNobody waits in turns any more.");

static PyObject *
quick_lock_settled(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    quick_lock_of(object)->asked = 0;
    quick_lock_of(object)->waits = false; /* in the copy of a child, whose thread is the parent's */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(waiting_doc, "The handle of an acquisition that waits in this moment, 0 for none.");

static PyObject *
quick_lock_waiting(PyObject *object, void *Py_UNUSED(ignored))
{
    const struct quick_lock *self = quick_lock_of(object);

    return PyLong_FromUnsignedLongLong(self->waits ? self->asked : 0);
}

PyDoc_STRVAR(take_doc, "_take($self, timeout=None, /)\n--\n\n"
                       "Lock quickly, if that can be; None for the timeout that was offered.");
PyDoc_STRVAR(give_doc, "_give($self, /)\n--\n\nUnlock quickly, if that can be.");
PyDoc_STRVAR(enter_doc, "__enter__($self, /)\n--\n\nTake it.");
PyDoc_STRVAR(exit_doc, "__exit__($self, /, *exc)\n--\n\nGive it back.");

static PyMethodDef quick_lock_methods[] = {
    {"_offer", NATIVE_METHOD(quick_lock_offer), METH_FASTCALL, offer_doc},
    {"_withdraw", quick_lock_withdraw_method, METH_NOARGS, withdraw_doc},
    {"_take", NATIVE_METHOD(quick_lock_take_method), METH_FASTCALL, take_doc},
    {"_give", quick_lock_give_method, METH_NOARGS, give_doc},
    {"_take_over", quick_lock_take_over, METH_NOARGS, take_over_doc},
    {"_taken_over", quick_lock_taken_over, METH_NOARGS, taken_over_doc},
    {"_settled", quick_lock_settled, METH_NOARGS, settled_doc},
    {"__enter__", quick_lock_enter, METH_NOARGS, enter_doc},
    {"__exit__", NATIVE_METHOD(quick_lock_exit), METH_FASTCALL, exit_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef quick_lock_getset[] = {
    {"_quick", quick_lock_quick, NULL, quick_doc, NULL},
    {"_waiting", quick_lock_waiting, NULL, waiting_doc, NULL},
    {"_asked", quick_lock_asked, NULL, asked_doc, NULL},
    {"_until", quick_lock_until, NULL, until_doc, NULL},
    {"_mine", quick_lock_mine, NULL, mine_doc, NULL},
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
