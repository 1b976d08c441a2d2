#include "lane_parts.h"

#include "arguments.h"
#include "shared.h"

#include <structmember.h>
#include <unistd.h>

enum { HEADS = 4096, SMALLEST = 4096, DESKS_AT = 1024 };

struct lane *
lane_of(PyObject *self)
{
    return (struct lane *)self;
}

void
lane_hold(const struct lane *lane, struct hold *hold)
{
    hold->memory = Py_NewRef(lane->memory);
    hold->thread = pthread_self();
}

void
lane_let_go(struct hold *hold)
{
    Py_CLEAR(hold->memory);
}

/* Another thread than this one did not come with us into the child. */
static void
drop_if_lost(struct hold *hold)
{
    if (hold->memory != NULL && !pthread_equal(hold->thread, pthread_self())) {
        Py_CLEAR(hold->memory);
    }
}

/* In a forked child: what threads of the parent's held here nobody lets go of. */
static void
drop_lost(struct lane *lane)
{
    drop_if_lost(&lane->asking);
    drop_if_lost(&lane->taking);
    drop_if_lost(&lane->putting);
    if (lane->putting.memory == NULL) {
        lane->going = NULL;
    }
}

static void
close_lane(struct lane *lane)
{
    if (lane->memory == NULL) {
        return; /* what this thread holds it may hold on */
    }
    if (lane->process != getpid()) {
        drop_lost(lane);
    } else {
        desk_abandon(lane->asked); /* in a child it is the parent's, who may be asking */
    }
    while (lane->first != NULL) {
        lane_drop_first(lane);
    }
    lane->bell = NULL;
    Py_CLEAR(lane->payload);
    Py_CLEAR(lane->their_memory);
    Py_CLEAR(lane->memory);
}

static struct channel_end
end_at(struct channel *shared, unsigned char *data, uint64_t capacity)
{
    return (struct channel_end){.shared = shared,
                                .data = data,
                                .capacity = capacity,
                                .least = SMALLEST,
                                .window = SMALLEST};
}

static PyObject *
lane_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "first", NULL};
    PyObject *memory;
    int first;
    size_t size;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Op:Lane", names, &memory, &first)) {
        return NULL;
    }
    unsigned char *bytes = shared_memory(memory, &size);
    if (bytes == NULL) {
        return NULL;
    }
    const uint64_t capacity = size < HEADS + 2 * SMALLEST ? 0 : (size - HEADS) / 2;
    if (capacity == 0 || (capacity & (capacity - 1)) != 0 || size != HEADS + 2 * capacity) {
        PyErr_Format(PyExc_ValueError, "no lane has %zu bytes", size);
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    struct channel *channels = (struct channel *)bytes;
    struct lane *lane = lane_of(self);
    lane->memory = Py_NewRef(memory);
    lane->process = getpid();
    lane->last = &lane->first;
    unsigned char *data = bytes + HEADS;
    lane->out = end_at(&channels[first ? 0 : 1], data + (first ? 0 : capacity), capacity);
    lane->in = end_at(&channels[first ? 1 : 0], data + (first ? capacity : 0), capacity);
    lane->most = capacity;
    lane->unread_since = UINT64_MAX;
    struct desk *desks = (struct desk *)(void *)(bytes + DESKS_AT);
    lane->asked = &desks[first ? 0 : 1];
    lane->served = &desks[first ? 1 : 0];
    return self;
}

static void
lane_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    close_lane(lane_of(self));
    drop_lost(lane_of(self)); /* closed by the parent while they held it */
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
bool
lane_check(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == lane_dealloc;
}

int
lane_require_open(const struct lane *lane)
{
    if (lane->memory == NULL) {
        PyErr_SetString(PyExc_ValueError, "the lane is closed");
        return -1;
    }
    return 0;
}

void
lane_ring(const struct lane *lane)
{
    if (lane->bell == NULL) {
        return;
    }
    if (lane->quiet) {
        bell_again(lane->bell, lane->line);
    } else {
        bell_ring(lane->bell, lane->line);
    }
}

PyDoc_STRVAR(reach_doc, "reach($self, memory, line, /)\n--\n\n"
                        "Their bell, and our line of it: from now on we can wake them.");

static PyObject *
lane_reach(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct lane *lane = lane_of(self);
    uint64_t line;
    size_t size;

    if (lane_require_open(lane) < 0 || require_count("reach", nargs, 2) < 0 ||
        as_unsigned(args[1], "line", BELL_LINES - 1, &line) < 0) {
        return NULL;
    }
    void *bytes = shared_memory(args[0], &size);
    if (bytes == NULL) {
        return NULL;
    }
    if (size < RECEPTION_AT + sizeof(struct reception)) {
        PyErr_Format(PyExc_ValueError, "no bell fits into %zu bytes", size);
        return NULL;
    }
    Py_XSETREF(lane->their_memory, Py_NewRef(args[0]));
    lane->bell = bytes;
    lane->reception = (struct reception *)(void *)((unsigned char *)bytes + RECEPTION_AT);
    lane->line = (unsigned)line;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(send_doc, "send($self, number, acked, code, seq, payload, /)\n--\n\n"
                       "Send a message. What there is no room for waits, and goes with `flush`: its "
                       "payload must not change until then. As `flush`.");

PyDoc_STRVAR(flush_doc, "flush($self, /)\n--\n\n"
                        "Send what waits, as far as there is room now. True if there is more of both: "
                        "much at a time is for several turns. Large copies are made without the "
                        "interpreter lock.");

static PyObject *
flush_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (lane_require_open(lane_of(self)) < 0) {
        return NULL;
    }
    return PyBool_FromLong(lane_flush(lane_of(self), LANE_TURN));
}

PyDoc_STRVAR(settle_doc, "settle($self, idle, /)\n--\n\n"
                         "Give back the memory of a window that is larger than at first, if nothing "
                         "is under way, and, unless everything is `idle`, if it was not needed since "
                         "the last time.");

PyDoc_STRVAR(remind_doc,
             "remind($self, /)\n--\n\n"
             "Ring once more if nothing was read of what lay there the last time: who has the bell "
             "mapped can take rings away. True if something lies here, or waits for room.");

/* Rings if the other end has read nothing since it was looked at last. */
static void
ring_again(struct lane *lane)
{
    const uint64_t unread = channel_unread(&lane->out);
    const uint64_t since = unread == 0 ? UINT64_MAX : lane->out.at - unread;

    if (unread != 0 && lane->unread_since == since) {
        lane_ring(lane);
    }
    lane->unread_since = since;
}

static PyObject *
lane_remind(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct lane *lane = lane_of(self);
    uint64_t filled = 0;

    if (lane->memory == NULL) {
        Py_RETURN_FALSE;
    }
    if (lane->putting.memory == NULL) {
        ring_again(lane);
    }
    if (lane->first != NULL && lane->putting.memory == NULL) {
        Py_RETURN_TRUE; /* there may be room, and nobody has told */
    }
    return PyBool_FromLong(!lane->broken && lane->taking.memory == NULL &&
                           (!channel_filled(&lane->in, &filled) || filled > 0));
}

PyDoc_STRVAR(ring_doc, "ring($self, /)\n--\n\n"
                       "Wake who reads at the other end, for what was sent while the lane was quiet.");

static PyObject *
ring_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    lane_ring(lane_of(self));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(receive_doc, "receive($self, max_message, /)\n--\n\n"
                          "(number, acked, code, seq, payload) of the next message, None if it is "
                          "not there yet; in the place of the payload of a large message that asks "
                          "or answers the bytes that it has, if there is no memory for them. "
                          "MemoryError where the message stays for another try; Malformed, once, if nothing that comes can be believed any more.");

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Give the memory back. What waits is lost.");

static PyObject *
lane_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    close_lane(lane_of(self));
    Py_RETURN_NONE;
}

static PyObject *
lane_get_waits(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(lane_of(self)->first != NULL);
}

static PyMethodDef lane_methods[] = {
    {"reach", NATIVE_METHOD(lane_reach), METH_FASTCALL, reach_doc},
    {"send", NATIVE_METHOD(lane_send), METH_FASTCALL, send_doc},
    {"flush", flush_method, METH_NOARGS, flush_doc},
    {"ring", ring_method, METH_NOARGS, ring_doc},
    {"remind", lane_remind, METH_NOARGS, remind_doc},
    {"settle", lane_settle, METH_O, settle_doc},
    {"receive", lane_receive, METH_O, receive_doc},
    {"close", lane_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef lane_members[] = {
    {"quiet", T_BOOL, offsetof(struct lane, quiet), 0,
     "Whether what is sent wakes nobody: it is seen with what comes next, or by `ring`."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef lane_attributes[] = {
    {"waits", lane_get_waits, NULL, "Whether anything sent waits for room.", NULL},
    {"window", lane_get_window, NULL, "Bytes of the window on the way out.", NULL},
    {"most", lane_get_most, lane_set_most,
     "Bytes that this window may come to have: a power of two, within what the memory allows.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(lane_doc, "Lane(memory, first)\n--\n\n"
                       "One end of the lane in this Shared memory: its maker is the `first`.");

static PyType_Slot lane_slots[] = {
    {Py_tp_doc, (void *)lane_doc},
    {Py_tp_new, lane_new},
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_methods, lane_methods},
    {Py_tp_members, lane_members},
    {Py_tp_getset, lane_attributes},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "libos_ipc._native.Lane",
    .basicsize = sizeof(struct lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lane_slots,
};

int
lane_setup(PyObject *module)
{
    return native_add_type(module, &lane_spec);
}
