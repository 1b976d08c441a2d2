#include "ticket.h"

#include "arguments.h"
#include "clock.h"
#include "landing.h"
#include "signal_look.h"

#include <errno.h>
#include <stdatomic.h>
#include <structmember.h>

enum { PENDING = 0, RESOLVED = 1, FAILED = 2 };

struct ticket {
    PyObject_HEAD
    _Atomic uint32_t state; /* changes under the interpreter lock alone */
    sleeper called;         /* 0 while threads sleep that are not to wake yet */
    unsigned sleepers;      /* threads that wait; under that lock too */
    bool watchful;          /* the thread that waits wakes by itself when no turn begins any more */
    struct link turn;       /* among those that are settled, and have not heard; unlinked: NULL */
    unsigned long long number;
    PyObject *value;   /* the answer, or the error; NULL while pending */
    PyObject *landing; /* NULL unless a coroutine waits, with `future` */
    PyObject *future;
};

static struct ticket *
ticket_of(PyObject *self)
{
    return (struct ticket *)self;
}

static PyObject *
ticket_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"landing", "future", NULL};
    PyObject *landing = NULL;
    PyObject *future = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:Ticket", names, &landing, &future)) {
        return NULL;
    }
    if ((landing == NULL) != (future == NULL) || (landing != NULL && !landing_check(landing))) {
        PyErr_SetString(PyExc_TypeError, "Ticket() takes a Landing and a future, or nothing");
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        ticket_of(self)->landing = Py_XNewRef(landing);
        ticket_of(self)->future = Py_XNewRef(future);
    }
    return self;
}

static int
ticket_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ticket_of(self)->value);
    Py_VISIT(ticket_of(self)->landing);
    Py_VISIT(ticket_of(self)->future);
    return 0;
}

static int
ticket_clear(PyObject *self)
{
    Py_CLEAR(ticket_of(self)->value);
    Py_CLEAR(ticket_of(self)->landing);
    Py_CLEAR(ticket_of(self)->future);
    return 0;
}

static void
ticket_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    ticket_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
bool
ticket_check(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == ticket_dealloc;
}

int
ticket_require(PyObject *object)
{
    if (ticket_check(object)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "expected a Ticket, not %.100s", Py_TYPE(object)->tp_name);
    return -1;
}

bool
ticket_is_settled(PyObject *ticket)
{
    return atomic_load(&ticket_of(ticket)->state) != PENDING;
}

static void
settle(struct ticket *ticket, PyObject *value, uint32_t state)
{
    ticket->value = value;
    atomic_store(&ticket->state, state);
    if (ticket->sleepers > 0) {
        atomic_store(&ticket->called, 1);
        sleeper_wake(&ticket->called);
    }
    if (ticket->landing != NULL) {
        landing_put(ticket->landing, (PyObject *)ticket, &ticket->turn);
    }
}

void
ticket_settle(PyObject *ticket, PyObject *payload)
{
    settle(ticket_of(ticket), payload, RESOLVED);
}

void
ticket_settle_in_turn(PyObject *self, PyObject *payload, struct link *ready)
{
    struct ticket *ticket = ticket_of(self);

    if (!ticket->watchful) {
        settle(ticket, payload, RESOLVED);
        return;
    }
    ticket->value = payload;
    atomic_store(&ticket->state, RESOLVED);
    ring_append(ready, &ticket->turn);
}

bool
ticket_leave_turn(PyObject *self)
{
    struct link *turn = &ticket_of(self)->turn;

    if (turn->next == NULL) {
        return false;
    }
    ring_remove(turn);
    turn->next = NULL;
    return true;
}

sleeper *
ticket_next(struct link *ready)
{
    struct ticket *first = RING_MEMBER(ready->next, struct ticket, turn);

    if (ready->next == ready) {
        return NULL;
    }
    ticket_leave_turn((PyObject *)first);
    atomic_store(&first->called, 1);
    return &first->called;
}

void
ticket_set_number(PyObject *ticket, uint64_t number)
{
    ticket_of(ticket)->number = number;
}

uint64_t
ticket_number(PyObject *ticket)
{
    return ticket_of(ticket)->number;
}

static PyObject *
settle_once(PyObject *self, PyObject *value, uint32_t state)
{
    if (ticket_is_settled(self)) {
        PyErr_SetString(PyExc_RuntimeError, "the ticket is settled already");
        return NULL;
    }
    settle(ticket_of(self), Py_NewRef(value), state);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(resolve_doc, "resolve($self, payload, /)\n--\n\nThe answer has come.");

static PyObject *
ticket_resolve(PyObject *self, PyObject *payload)
{
    return settle_once(self, payload, RESOLVED);
}

PyDoc_STRVAR(fail_doc, "fail($self, error, /)\n--\n\nNo answer will come, but this error.");

static PyObject *
ticket_fail(PyObject *self, PyObject *error)
{
    if (!PyExceptionInstance_Check(error)) {
        PyErr_SetString(PyExc_TypeError, "a ticket fails with an exception");
        return NULL;
    }
    return settle_once(self, error, FAILED);
}

PyDoc_STRVAR(settled_doc, "settled($self, /)\n--\n\nWhether there is a result.");

static PyObject *
ticket_settled(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(ticket_is_settled(self));
}

PyDoc_STRVAR(succeeded_doc, "succeeded($self, /)\n--\n\n"
                            "Whether the result is no error. Only when settled.");

static PyObject *
ticket_succeeded(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(atomic_load(&ticket_of(self)->state) == RESOLVED);
}

int
ticket_sleep(PyObject *self, int64_t deadline, const struct watch *watch, sleeper *next)
{
    struct ticket *ticket = ticket_of(self);
    int found;

    atomic_store(&ticket->called, 0);
    ticket->sleepers++;
    ticket->watchful = watch != NULL;
    Py_BEGIN_ALLOW_THREADS
    if (next != NULL) {
        sleeper_wake(next);
    }
    found = sleeper_sleep(&ticket->called, deadline, watch);
    Py_END_ALLOW_THREADS
    ticket->sleepers--;
    ticket->watchful = false;
    return found;
}

int
ticket_await(PyObject *self, int64_t deadline)
{
    int64_t pause = 0;

    while (!ticket_is_settled(self)) {
        const int found = ticket_sleep(self, until_next_look(deadline, &pause), NULL, NULL);
        if (found == EINTR) {
            pause = 0;
        }
        if ((found == EINTR || found == ETIMEDOUT) && PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (found == ETIMEDOUT && now_ns() >= deadline) {
            return ticket_is_settled(self);
        }
    }
    return 1;
}

PyDoc_STRVAR(wait_doc,
             "wait($self, timeout, /)\n--\n\n"
             "Wait until settled; False when `timeout` seconds pass first. Signals are handled.");

static PyObject *
ticket_wait(PyObject *self, PyObject *timeout)
{
    int64_t deadline = INT64_MAX;
    double seconds;

    if (timeout != Py_None) {
        if (as_seconds(timeout, &seconds) < 0) {
            return NULL;
        }
        deadline = after_seconds(seconds);
    }
    const int settled = ticket_await(self, deadline);
    return settled < 0 ? NULL : PyBool_FromLong(settled);
}

PyObject *
ticket_outcome(PyObject *self)
{
    struct ticket *ticket = ticket_of(self);

    if (atomic_load(&ticket->state) == FAILED) {
        PyObject *error = ticket->value;
        ticket->value = Py_NewRef(Py_None);
        if (error == Py_None) {
            PyErr_SetString(PyExc_RuntimeError, "the ticket's error was raised before");
        } else {
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        }
        Py_DECREF(error);
        return NULL;
    }
    return Py_NewRef(ticket->value);
}

PyDoc_STRVAR(result_doc, "result($self, /)\n--\n\n"
                         "The answer, or the error raised, once. Only when settled.");

static PyObject *
ticket_result(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (ticket_of(self)->value == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the ticket is not settled");
        return NULL;
    }
    return ticket_outcome(self);
}

static PyMethodDef ticket_methods[] = {
    {"resolve", ticket_resolve, METH_O, resolve_doc},
    {"fail", ticket_fail, METH_O, fail_doc},
    {"settled", ticket_settled, METH_NOARGS, settled_doc},
    {"succeeded", ticket_succeeded, METH_NOARGS, succeeded_doc},
    {"wait", ticket_wait, METH_O, wait_doc},
    {"result", ticket_result, METH_NOARGS, result_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef ticket_members[] = {
    {"number", T_ULONGLONG, offsetof(struct ticket, number), READONLY,
     "The number of its request, where the exchange has given it; 0 before."},
    {"future", T_OBJECT_EX, offsetof(struct ticket, future), READONLY,
     "The future of the coroutine that waits; AttributeError where a thread does."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(ticket_doc, "Ticket(landing=None, future=None)\n--\n\n"
                         "A request that a thread waits for, or a coroutine: then it lands, settled, for "
                         "the loop of this future.");

static PyType_Slot ticket_slots[] = {
    {Py_tp_doc, (void *)ticket_doc},
    {Py_tp_new, ticket_new},
    {Py_tp_dealloc, ticket_dealloc},
    {Py_tp_traverse, ticket_traverse},
    {Py_tp_clear, ticket_clear},
    {Py_tp_methods, ticket_methods},
    {Py_tp_members, ticket_members},
    {0, NULL},
};

static PyType_Spec ticket_spec = {
    .name = "libos_ipc._native.Ticket",
    .basicsize = sizeof(struct ticket),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ticket_slots,
};

PyObject *
ticket_of_link(struct link *link)
{
    return (PyObject *)RING_MEMBER(link, struct ticket, turn);
}

PyObject *
ticket_make(PyObject *type)
{
    return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
}

int
ticket_setup(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &ticket_spec, NULL);

    native_state_of(module)->ticket = type;
    return type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
}
