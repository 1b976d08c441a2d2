#include "ledger_parts.h"

#include "arguments.h"

#include <structmember.h>

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
    for (size_t i = 0; i < ledger->kept.count; i++) {
        Py_VISIT(kept_at(&ledger->kept, i)->body);
    }
    Py_VISIT(ledger->kind);
    return 0;
}

static int
ledger_clear(PyObject *self)
{
    struct ledger *ledger = ledger_of(self);
    const unsigned long long last = ledger->sent; /* what finalizers add meanwhile stays */

    while (ledger->acked < last) {
        PyObject *message = ledger_forget_oldest(ledger);
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
    kept_free(&ledger_of(self)->kept);
    Py_XDECREF(ledger_of(self)->kind);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(stamp_doc, "stamp($self, message, size, now, /)\n--\n\n"
                        "Number a message and keep it until it is acknowledged.");

static PyObject *
stamp_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t size;
    uint64_t number;
    double now;

    if (require_count("stamp", nargs, 3) < 0 ||
        as_unsigned(args[1], "size", INT64_MAX, &size) < 0 || as_seconds(args[2], &now) < 0) {
        return NULL;
    }
    /* Made first: once the message is kept, nothing may fail. Neither step runs Python code. */
    const struct kept_message message = {.body = args[0], .code = KEPT_WHOLE};
    PyObject *result = PyLong_FromUnsignedLongLong(ledger_of(self)->sent + 1);
    if (result != NULL && ledger_stamp(self, NULL, &message, size, now, &number) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

PyDoc_STRVAR(receive_doc, "receive($self, number, acked, size, now, /)\n--\n\n"
                          "Enter what a message says of the link. NEXT if it is the next in "
                          "order, DRAINED if it acknowledges the last that was kept.");

static PyObject *
receive_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t number;
    uint64_t acked;
    uint64_t size;
    double now;

    if (require_count("receive", nargs, 4) < 0 ||
        as_unsigned(args[0], "number", UINT64_MAX, &number) < 0 ||
        as_unsigned(args[1], "acked", UINT64_MAX, &acked) < 0 ||
        as_unsigned(args[2], "size", INT64_MAX, &size) < 0 || as_seconds(args[3], &now) < 0) {
        return NULL;
    }
    const int found = ledger_receive(self, number, acked, size, now);
    return found < 0 ? NULL : PyLong_FromLong(found);
}

PyDoc_STRVAR(acknowledge_doc, "acknowledge($self, /)\n--\n\n"
                              "The acknowledgement that goes out with the next message.");

static PyObject *
acknowledge_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(ledger_acknowledge(self));
}

PyDoc_STRVAR(ack_due_doc, "ack_due($self, every, /)\n--\n\n"
                          "Whether `every` messages have arrived since the peer was last told.");

static PyObject *
ack_due_method(PyObject *self, PyObject *argument)
{
    uint64_t every;

    if (as_unsigned(argument, "every", UINT64_MAX, &every) < 0) {
        return NULL;
    }
    return PyBool_FromLong(ledger_ack_due(self, every));
}

PyDoc_STRVAR(has_room_doc, "has_room($self, size, limit, /)\n--\n\n"
                           "Whether `size` more bytes stay within `limit`; one message alone "
                           "always may go.");

static PyObject *
has_room_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t size;
    uint64_t limit;

    if (require_count("has_room", nargs, 2) < 0 ||
        as_unsigned(args[0], "size", INT64_MAX, &size) < 0 ||
        as_unsigned(args[1], "limit", INT64_MAX, &limit) < 0) {
        return NULL;
    }
    return PyBool_FromLong(ledger_has_room(self, size, limit));
}

PyDoc_STRVAR(consume_doc, "consume($self, size, quantum, /)\n--\n\n"
                          "The program has taken up `size` bytes. True if the peer should hear "
                          "of it: `quantum` bytes or more are news, or it waits and can be told "
                          "of all.");

static PyObject *
consume_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t size;
    uint64_t quantum;

    if (require_count("consume", nargs, 2) < 0 ||
        as_unsigned(args[0], "size", INT64_MAX, &size) < 0 ||
        as_unsigned(args[1], "quantum", INT64_MAX, &quantum) < 0) {
        return NULL;
    }
    return PyBool_FromLong(ledger_consume(self, size, quantum));
}

static PyObject *
ledger_get_kept(PyObject *self, void *Py_UNUSED(closure))
{
    const struct ledger *ledger = ledger_of(self);
    PyObject *list = PyList_New(0);

    /* Whatever runs while a pair is made may change what is kept: the next is found anew. */
    unsigned long long number = ledger->acked + 1;
    while (list != NULL && number <= ledger->sent) {
        const size_t place = (size_t)(number - ledger->acked - 1);
        PyObject *message = kept_object(&ledger->kept, place, ledger->kind);
        PyObject *pair = message == NULL ? NULL : Py_BuildValue("KN", number, message);
        if (pair == NULL || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
        number = (number > ledger->acked ? number : ledger->acked) + 1;
    }
    return list;
}

static PyMethodDef ledger_methods[] = {
    {"stamp", NATIVE_METHOD(stamp_method), METH_FASTCALL, stamp_doc},
    {"receive", NATIVE_METHOD(receive_method), METH_FASTCALL, receive_doc},
    {"acknowledge", acknowledge_method, METH_NOARGS, acknowledge_doc},
    {"ack_due", ack_due_method, METH_O, ack_due_doc},
    {"has_room", NATIVE_METHOD(has_room_method), METH_FASTCALL, has_room_doc},
    {"consume", NATIVE_METHOD(consume_method), METH_FASTCALL, consume_doc},
    {NULL, NULL, 0, NULL},
};

/* The counts and times that Python may assign are no members: an assignment that fails would
 * leave -1 in those. The closure is the place within the ledger. To delete one is to assign None,
 * which is no number. */
#define AT(type, self, closure) (*(type *)(void *)((char *)(self) + (uintptr_t)(closure)))

static PyObject *
ledger_get_count(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLongLong(AT(unsigned long long, self, closure));
}

static int
ledger_set_count(PyObject *self, PyObject *value, void *closure)
{
    uint64_t count;

    if (as_unsigned(value != NULL ? value : Py_None, "a count", UINT64_MAX, &count) < 0) {
        return -1;
    }
    AT(unsigned long long, self, closure) = count;
    return 0;
}

static PyObject *
ledger_get_seconds(PyObject *self, void *closure)
{
    return PyFloat_FromDouble(AT(double, self, closure));
}

static int
ledger_set_seconds(PyObject *self, PyObject *value, void *closure)
{
    double seconds;

    if (as_seconds(value != NULL ? value : Py_None, &seconds) < 0) {
        return -1;
    }
    AT(double, self, closure) = seconds;
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
        native_state_of(module)->ledger = Py_NewRef(type);
        result = PyModule_AddType(module, (PyTypeObject *)type);
    }
    Py_XDECREF(interval);
    Py_XDECREF(type);
    return result;
}
