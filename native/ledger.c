#include "ledger.h"

#include "arguments.h"

#include <structmember.h>

/* Seconds without progress after which the peer is asked for the first time. */
#define FIRST_PROBE_S 0.25

/* What `receive` found, as bits of an int. */
enum { NEXT = 1, DRAINED = 2 };

struct ledger {
    PyObject_HEAD
    unsigned long long sent;
    unsigned long long acked;
    unsigned long long sent_bytes;
    unsigned long long credited;
    unsigned long long delivered;
    unsigned long long announced_ack;
    unsigned long long received_bytes;
    unsigned long long consumed;
    unsigned long long announced_credit;
    double probe_at;
    double probe_interval;
    char starving;
    /* Message n is kept[(first + n - acked - 1) % room]; there are sent - acked of them. */
    PyObject **kept;
    size_t first;
    size_t room; /* a power of two, or 0 */
};

static struct ledger *
ledger_of(PyObject *self)
{
    return (struct ledger *)self;
}

static size_t
count_of(const struct ledger *ledger)
{
    return (size_t)(ledger->sent - ledger->acked);
}

static PyObject **
place_of(const struct ledger *ledger, size_t offset)
{
    return &ledger->kept[(ledger->first + offset) & (ledger->room - 1)];
}

static void
rest(struct ledger *ledger, double now)
{
    ledger->probe_interval = FIRST_PROBE_S;
    ledger->probe_at = now + FIRST_PROBE_S;
}

/* Makes room for one more message. -1 with MemoryError, and then nothing has changed. */
static int
reserve(struct ledger *ledger)
{
    const size_t count = count_of(ledger);

    if (count < ledger->room) {
        return 0;
    }
    const size_t room = ledger->room == 0 ? 8 : ledger->room * 2;
    PyObject **kept = PyMem_Calloc(room, sizeof(*kept));
    if (kept == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        kept[i] = *place_of(ledger, i);
    }
    PyMem_Free(ledger->kept);
    ledger->kept = kept;
    ledger->first = 0;
    ledger->room = room;
    return 0;
}

/* Takes the oldest kept message out; it becomes the caller's. There is one. */
static PyObject *
take_oldest(struct ledger *ledger)
{
    PyObject *message = *place_of(ledger, 0);

    *place_of(ledger, 0) = NULL;
    ledger->first++;
    ledger->acked++;
    return message;
}

static PyObject *
ledger_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PyObject *self = type->tp_alloc(type, 0);

    if (self != NULL) {
        ledger_of(self)->probe_interval = FIRST_PROBE_S;
    }
    return self;
}

static int
ledger_traverse(PyObject *self, visitproc visit, void *arg)
{
    const struct ledger *ledger = ledger_of(self);

    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < count_of(ledger); i++) {
        Py_VISIT(*place_of(ledger, i));
    }
    return 0;
}

static int
ledger_clear(PyObject *self)
{
    struct ledger *ledger = ledger_of(self);
    const unsigned long long last = ledger->sent; /* what finalizers add meanwhile stays */

    while (ledger->acked < last) {
        PyObject *message = take_oldest(ledger);
        Py_DECREF(message);
    }
    return 0;
}

static void
ledger_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    ledger_clear(self);
    PyMem_Free(ledger_of(self)->kept);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The arguments of a method that takes exactly `wanted`, by place. -1 with TypeError. */
static int
require_arguments(const char *method, Py_ssize_t nargs, Py_ssize_t wanted)
{
    if (nargs == wanted) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, got %zd", method, wanted, nargs);
    return -1;
}

static int
as_seconds(PyObject *value, double *result)
{
    *result = PyFloat_AsDouble(value);
    return *result == -1.0 && PyErr_Occurred() ? -1 : 0;
}

PyDoc_STRVAR(stamp_doc, "stamp($self, message, size, now, /)\n--\n\n"
                        "Number a message and keep it until it is acknowledged.");

static PyObject *
ledger_stamp(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct ledger *ledger = ledger_of(self);
    uint64_t size;
    double now;

    if (require_arguments("stamp", nargs, 3) < 0 ||
        as_unsigned(args[1], "size", INT64_MAX, &size) < 0 || as_seconds(args[2], &now) < 0) {
        return NULL;
    }
    /* Made first: once the message is kept, nothing may fail. Neither step runs Python code. */
    PyObject *number = PyLong_FromUnsignedLongLong(ledger->sent + 1);
    if (number == NULL) {
        return NULL;
    }
    if (reserve(ledger) < 0) {
        Py_DECREF(number);
        return NULL;
    }
    if (count_of(ledger) == 0) {
        rest(ledger, now);
    }
    *place_of(ledger, count_of(ledger)) = Py_NewRef(args[0]);
    ledger->sent++;
    ledger->sent_bytes += size;
    return number;
}

/* The peer has everything up to `acked`. Whether that was the last that was kept; -1 with
 * ValueError if so much was not sent. */
static int
acknowledged(struct ledger *ledger, uint64_t acked, double now)
{
    if (acked <= ledger->acked) {
        return 0;
    }
    if (acked > ledger->sent) {
        PyErr_Format(PyExc_ValueError, "acknowledges %llu, but only %llu were sent",
                     (unsigned long long)acked, ledger->sent);
        return -1;
    }
    while (ledger->acked < acked) {
        PyObject *message = take_oldest(ledger);
        Py_DECREF(message);
    }
    if (count_of(ledger) == 0) {
        return DRAINED;
    }
    rest(ledger, now);
    return 0;
}

PyDoc_STRVAR(receive_doc, "receive($self, number, acked, size, now, /)\n--\n\n"
                          "Enter what a message says of the link. NEXT if it is the next in "
                          "order, DRAINED if it acknowledges the last that was kept.");

static PyObject *
ledger_receive(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct ledger *ledger = ledger_of(self);
    uint64_t number;
    uint64_t acked;
    uint64_t size;
    double now;

    if (require_arguments("receive", nargs, 4) < 0 ||
        as_unsigned(args[0], "number", UINT64_MAX, &number) < 0 ||
        as_unsigned(args[1], "acked", UINT64_MAX, &acked) < 0 ||
        as_unsigned(args[2], "size", INT64_MAX, &size) < 0 || as_seconds(args[3], &now) < 0) {
        return NULL;
    }
    int found = acknowledged(ledger, acked, now);
    if (found < 0) {
        return NULL;
    }
    if (number != 0 && number - 1 == ledger->delivered) {
        ledger->delivered = number;
        ledger->received_bytes += size;
        found |= NEXT;
    }
    return PyLong_FromLong(found);
}

PyDoc_STRVAR(acknowledge_doc, "acknowledge($self, /)\n--\n\n"
                              "The acknowledgement that goes out with the next message.");

static PyObject *
ledger_acknowledge(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct ledger *ledger = ledger_of(self);

    ledger->announced_ack = ledger->delivered;
    return PyLong_FromUnsignedLongLong(ledger->delivered);
}

PyDoc_STRVAR(ack_due_doc, "ack_due($self, every, /)\n--\n\n"
                          "Whether `every` messages have arrived since the peer was last told.");

static PyObject *
ledger_ack_due(PyObject *self, PyObject *argument)
{
    const struct ledger *ledger = ledger_of(self);
    uint64_t every;

    if (as_unsigned(argument, "every", UINT64_MAX, &every) < 0) {
        return NULL;
    }
    return PyBool_FromLong(ledger->delivered - ledger->announced_ack >= every);
}

PyDoc_STRVAR(has_room_doc, "has_room($self, size, limit, /)\n--\n\n"
                           "Whether `size` more bytes stay within `limit`; one message alone "
                           "always may go.");

static PyObject *
ledger_has_room(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    const struct ledger *ledger = ledger_of(self);
    const unsigned long long owed = ledger->sent_bytes - ledger->credited;
    uint64_t size;
    uint64_t limit;

    if (require_arguments("has_room", nargs, 2) < 0 ||
        as_unsigned(args[0], "size", INT64_MAX, &size) < 0 ||
        as_unsigned(args[1], "limit", INT64_MAX, &limit) < 0) {
        return NULL;
    }
    return PyBool_FromLong(owed == 0 || (owed <= limit && size <= limit - owed));
}

PyDoc_STRVAR(consume_doc, "consume($self, size, quantum, /)\n--\n\n"
                          "The program has taken up `size` bytes. True if the peer should hear "
                          "of it: `quantum` bytes or more are news, or it waits and can be told "
                          "of all.");

static PyObject *
ledger_consume(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct ledger *ledger = ledger_of(self);
    uint64_t size;
    uint64_t quantum;

    if (require_arguments("consume", nargs, 2) < 0 ||
        as_unsigned(args[0], "size", INT64_MAX, &size) < 0 ||
        as_unsigned(args[1], "quantum", INT64_MAX, &quantum) < 0) {
        return NULL;
    }
    ledger->consumed += size;
    const unsigned long long news = ledger->consumed - ledger->announced_credit;
    const bool all = ledger->starving && ledger->consumed == ledger->received_bytes;
    return PyBool_FromLong(news >= quantum || (all && news > 0));
}

static PyObject *
ledger_get_kept(PyObject *self, void *Py_UNUSED(closure))
{
    const struct ledger *ledger = ledger_of(self);
    PyObject *list = PyList_New(0);

    /* Whatever runs while a pair is made may change what is kept: the next is found anew. */
    unsigned long long number = ledger->acked + 1;
    while (list != NULL && number <= ledger->sent) {
        PyObject *message = Py_NewRef(*place_of(ledger, (size_t)(number - ledger->acked - 1)));
        PyObject *pair = Py_BuildValue("KN", number, message);
        if (pair == NULL || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
        number = (number > ledger->acked ? number : ledger->acked) + 1;
    }
    return list;
}

static PyMethodDef ledger_methods[] = {
    {"stamp", NATIVE_METHOD(ledger_stamp), METH_FASTCALL, stamp_doc},
    {"receive", NATIVE_METHOD(ledger_receive), METH_FASTCALL, receive_doc},
    {"acknowledge", ledger_acknowledge, METH_NOARGS, acknowledge_doc},
    {"ack_due", ledger_ack_due, METH_O, ack_due_doc},
    {"has_room", NATIVE_METHOD(ledger_has_room), METH_FASTCALL, has_room_doc},
    {"consume", NATIVE_METHOD(ledger_consume), METH_FASTCALL, consume_doc},
    {NULL, NULL, 0, NULL},
};

/* The counts and times that Python may assign are no members: an assignment that fails would
 * leave -1 in those. The closure is the place within the ledger. */
static void *
attribute_at(PyObject *self, void *closure)
{
    return (char *)self + (uintptr_t)closure;
}

static int
require_value(PyObject *value)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "cannot delete an attribute of a ledger");
        return -1;
    }
    return 0;
}

static PyObject *
ledger_get_count(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLongLong(*(unsigned long long *)attribute_at(self, closure));
}

static int
ledger_set_count(PyObject *self, PyObject *value, void *closure)
{
    uint64_t count;

    if (require_value(value) < 0 || as_unsigned(value, "a count", UINT64_MAX, &count) < 0) {
        return -1;
    }
    *(unsigned long long *)attribute_at(self, closure) = count;
    return 0;
}

static PyObject *
ledger_get_seconds(PyObject *self, void *closure)
{
    return PyFloat_FromDouble(*(double *)attribute_at(self, closure));
}

static int
ledger_set_seconds(PyObject *self, PyObject *value, void *closure)
{
    double seconds;

    if (require_value(value) < 0 || as_seconds(value, &seconds) < 0) {
        return -1;
    }
    *(double *)attribute_at(self, closure) = seconds;
    return 0;
}

static PyMemberDef ledger_members[] = {
    {"sent", T_ULONGLONG, offsetof(struct ledger, sent), READONLY, "Messages numbered so far."},
    {"acked", T_ULONGLONG, offsetof(struct ledger, acked), READONLY,
     "The number up to which the peer has everything."},
    {"starving", T_BOOL, offsetof(struct ledger, starving), 0,
     "Whether the peer waits for room."},
    {NULL, 0, 0, 0, NULL},
};

#define ATTRIBUTE(name, kind, doc)                                                                \
    {#name, ledger_get_##kind, ledger_set_##kind, doc, (void *)offsetof(struct ledger, name)}

static PyGetSetDef ledger_attributes[] = {
    ATTRIBUTE(sent_bytes, count, "Bytes sent."),
    ATTRIBUTE(credited, count, "Bytes sent that the peer has consumed, as far as we know."),
    ATTRIBUTE(delivered, count, "The number up to which we have everything."),
    ATTRIBUTE(announced_ack, count, "What the peer was told of that."),
    ATTRIBUTE(received_bytes, count, "Bytes received."),
    ATTRIBUTE(consumed, count, "Bytes received that the program has taken up."),
    ATTRIBUTE(announced_credit, count, "What the peer was told of that."),
    ATTRIBUTE(probe_at, seconds, "When to ask the peer."),
    ATTRIBUTE(probe_interval, seconds, "Seconds between askings."),
    {"kept", ledger_get_kept, NULL, "Numbers and messages not acknowledged, in order.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(ledger_doc, "Ledger()\n--\n\n"
                         "The counts of one end of a link, and the messages that it keeps.");

static PyType_Slot ledger_slots[] = {
    {Py_tp_doc, (void *)ledger_doc},
    {Py_tp_new, ledger_new},
    {Py_tp_dealloc, ledger_dealloc},
    {Py_tp_traverse, ledger_traverse},
    {Py_tp_clear, ledger_clear},
    {Py_tp_methods, ledger_methods},
    {Py_tp_members, ledger_members},
    {Py_tp_getset, ledger_attributes},
    {0, NULL},
};

static PyType_Spec ledger_spec = {
    .name = "libos_ipc._native.Ledger",
    .basicsize = sizeof(struct ledger),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ledger_slots,
};

int
ledger_setup(PyObject *module)
{
    PyObject *interval = PyFloat_FromDouble(FIRST_PROBE_S);
    PyObject *type = PyType_FromModuleAndSpec(module, &ledger_spec, NULL);
    int result = -1;

    if (interval != NULL && type != NULL &&
        PyModule_AddIntConstant(module, "NEXT", NEXT) == 0 &&
        PyModule_AddIntConstant(module, "DRAINED", DRAINED) == 0 &&
        PyModule_AddObjectRef(module, "FIRST_PROBE_S", interval) == 0) {
        result = PyModule_AddType(module, (PyTypeObject *)type);
    }
    Py_XDECREF(interval);
    Py_XDECREF(type);
    return result;
}
