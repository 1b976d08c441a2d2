#include "landing.h"

#include "ticket.h"

#include <errno.h>
#include <structmember.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct landing {
    PyObject_HEAD
    int fd; /* -1 when closed */
    bool called;    /* the loop has been woken, and has not taken since */
    char attending; /* the loop's thread will take before it sleeps */
    Py_ssize_t count;
    struct link landed; /* tickets, of each of which a reference is ours */
};

static struct landing *
landing_of(PyObject *self)
{
    return (struct landing *)self;
}

static PyObject *
landing_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Landing", names)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    ring_init(&landing_of(self)->landed);
    landing_of(self)->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (landing_of(self)->fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_CLEAR(self);
    }
    return self;
}

/* Takes out the first ticket, whose reference is the caller's. */
static PyObject *
take_first(struct landing *landing)
{
    struct link *first = landing->landed.next;

    ring_remove(first);
    first->next = NULL;
    landing->count--;
    return ticket_of_link(first);
}

static int
landing_traverse(PyObject *self, visitproc visit, void *arg)
{
    const struct link *head = &landing_of(self)->landed;

    Py_VISIT(Py_TYPE(self));
    for (struct link *link = head->next; link != head; link = link->next) {
        Py_VISIT(ticket_of_link(link));
    }
    return 0;
}

static int
landing_clear(PyObject *self)
{
    while (landing_of(self)->count > 0) {
        PyObject *ticket = take_first(landing_of(self));
        Py_DECREF(ticket);
    }
    return 0;
}

static void
close_descriptor(struct landing *landing)
{
    if (landing->fd >= 0) {
        close(landing->fd); /* of an eventfd: does not block */
        landing->fd = -1;
    }
}

static void
landing_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    close_descriptor(landing_of(self));
    landing_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
bool
landing_check(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == landing_dealloc;
}

static void
call(struct landing *landing)
{
    const uint64_t one = 1;

    /* It cannot fail but by being full, and then the loop has been called. */
    landing->called = write(landing->fd, &one, sizeof one) == sizeof one || errno == EAGAIN;
}

void
landing_put(PyObject *self, PyObject *ticket, struct link *link)
{
    struct landing *landing = landing_of(self);

    if (landing->fd < 0) {
        return;
    }
    Py_INCREF(ticket);
    ring_append(&landing->landed, link);
    landing->count++;
    if (!landing->called && !landing->attending) {
        call(landing);
    }
}

/* The loop has been called, and hears it. In a forked process the other one may have read it: that is
 * EAGAIN, and no matter. */
static void
hear(struct landing *landing)
{
    uint64_t calls;

    landing->called = landing->fd >= 0 && read(landing->fd, &calls, sizeof calls) < 0 && errno != EAGAIN;
}

PyDoc_STRVAR(take_doc, "take($self, into, /)\n--\n\n"
                       "Add the tickets that have landed to this list, in order. Those that land from here on "
                       "wake the loop again.");

static PyObject *
landing_take(PyObject *self, PyObject *into)
{
    struct landing *landing = landing_of(self);

    if (!PyList_CheckExact(into)) {
        PyErr_SetString(PyExc_TypeError, "take() adds to a list");
        return NULL;
    }
    if (landing->called || !landing->attending) {
        hear(landing);
    }
    while (landing->count > 0) {
        if (PyList_Append(into, ticket_of_link(landing->landed.next)) < 0) {
            return NULL;
        }
        PyObject *ticket = take_first(landing);
        Py_DECREF(ticket);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(call_doc, "call($self, /)\n--\n\n"
                       "Wake the loop, though nothing may have landed.");

static PyObject *
landing_call(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (landing_of(self)->fd >= 0) {
        call(landing_of(self));
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fileno_doc, "fileno($self, /)\n--\n\n"
                         "What is readable when the loop is to take; -1 when closed.");

static PyObject *
landing_fileno(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(landing_of(self)->fd);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Nothing lands any more; what has can still be taken.");

static PyObject *
landing_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    close_descriptor(landing_of(self));
    Py_RETURN_NONE;
}

static PyMethodDef landing_methods[] = {
    {"take", landing_take, METH_O, take_doc},
    {"call", landing_call, METH_NOARGS, call_doc},
    {"fileno", landing_fileno, METH_NOARGS, fileno_doc},
    {"close", landing_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef landing_members[] = {
    {"landed", T_PYSSIZET, offsetof(struct landing, count), READONLY,
     "How many tickets there are to take."},
    {"attending", T_BOOL, offsetof(struct landing, attending), 0,
     "Whether the loop's thread will take before it sleeps, and need not be woken."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(landing_doc,
             "Landing()\n--\n\n"
             "Where tickets land that coroutines wait for; it wakes their event loop.");

static PyType_Slot landing_slots[] = {
    {Py_tp_doc, (void *)landing_doc},
    {Py_tp_new, landing_new},
    {Py_tp_dealloc, landing_dealloc},
    {Py_tp_traverse, landing_traverse},
    {Py_tp_clear, landing_clear},
    {Py_tp_methods, landing_methods},
    {Py_tp_members, landing_members},
    {0, NULL},
};

static PyType_Spec landing_spec = {
    .name = "libos_ipc._native.Landing",
    .basicsize = sizeof(struct landing),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = landing_slots,
};

int
landing_setup(PyObject *module)
{
    return native_add_type(module, &landing_spec);
}
