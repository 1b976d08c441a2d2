#include "lane.h"

#include "arguments.h"
#include "bell.h"
#include "channel.h"
#include "codec.h"
#include "shared.h"

enum { HEADS = 4096, SMALLEST = 4096, MESSAGE_HEAD = ENVELOPE_SIZE + HEADER_SIZE };

/* A message that has not gone, or not all of it. */
struct waiting {
    struct waiting *next;
    unsigned char head[MESSAGE_HEAD];
    Py_buffer payload;
    uint64_t done; /* bytes of both */
};

struct lane {
    PyObject_HEAD
    PyObject *memory; /* Shared; NULL once closed */
    PyObject *their_memory;
    struct bell *bell; /* theirs, NULL until it is known */
    unsigned line;
    struct channel_end out;
    struct channel_end in;
    struct waiting *first;
    struct waiting **last;
    /* the message that is arriving: its payload is NULL until its head is there */
    struct envelope envelope;
    struct header header;
    PyObject *payload;
    uint64_t arrived;
    bool broken; /* nothing that comes can be believed any more */
};

struct lane *
lane_of(PyObject *self)
{
    return (struct lane *)self;
}

static void
drop_first(struct lane *lane)
{
    struct waiting *gone = lane->first;

    lane->first = gone->next;
    if (lane->first == NULL) {
        lane->last = &lane->first;
    }
    PyBuffer_Release(&gone->payload);
    PyMem_Free(gone);
}

static void
close_lane(struct lane *lane)
{
    while (lane->first != NULL) {
        drop_first(lane);
    }
    lane->bell = NULL;
    Py_CLEAR(lane->payload);
    Py_CLEAR(lane->their_memory);
    Py_CLEAR(lane->memory);
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
    lane->last = &lane->first;
    lane->out = (struct channel_end){.shared = &channels[first ? 0 : 1],
                                     .data = bytes + HEADS + (first ? 0 : capacity),
                                     .capacity = capacity};
    lane->in = (struct channel_end){.shared = &channels[first ? 1 : 0],
                                    .data = bytes + HEADS + (first ? capacity : 0),
                                    .capacity = capacity};
    return self;
}

static void
lane_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    close_lane(lane_of(self));
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
bool
lane_check(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == lane_dealloc;
}

static int
require_open(const struct lane *lane)
{
    if (lane->memory == NULL) {
        PyErr_SetString(PyExc_ValueError, "the lane is closed");
        return -1;
    }
    return 0;
}

static void
ring(const struct lane *lane)
{
    if (lane->bell != NULL) {
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

    if (require_open(lane) < 0 || require_count("reach", nargs, 2) < 0 ||
        as_unsigned(args[1], "line", BELL_LINES - 1, &line) < 0) {
        return NULL;
    }
    void *bytes = shared_memory(args[0], &size);
    if (bytes == NULL) {
        return NULL;
    }
    if (size < sizeof(struct bell)) {
        PyErr_Format(PyExc_ValueError, "no bell fits into %zu bytes", size);
        return NULL;
    }
    Py_XSETREF(lane->their_memory, Py_NewRef(args[0]));
    lane->bell = bytes;
    lane->line = (unsigned)line;
    Py_RETURN_NONE;
}

/* Puts as much of one message as there is room for, from byte `done` of it on. */
static uint64_t
put_part(struct channel_end *out, const unsigned char *head, const Py_buffer *payload,
         uint64_t done)
{
    uint64_t room = channel_room(out);

    if (done < MESSAGE_HEAD) {
        const uint64_t left = MESSAGE_HEAD - done;
        const uint64_t count = left < room ? left : room;
        channel_put(out, head + done, count);
        done += count;
        room -= count;
    }
    if (done >= MESSAGE_HEAD) {
        const uint64_t left = MESSAGE_HEAD + (uint64_t)payload->len - done;
        const uint64_t count = left < room ? left : room;
        channel_put(out, (const unsigned char *)payload->buf + (done - MESSAGE_HEAD), count);
        done += count;
    }
    return done;
}

/* Puts what waits, as far as there is room, and asks to be told of more. */
static void
flush(struct lane *lane)
{
    while (lane->first != NULL) {
        struct waiting *next = lane->first;
        const uint64_t before = next->done;

        next->done = put_part(&lane->out, next->head, &next->payload, before);
        if (next->done != before) {
            channel_publish(&lane->out);
        }
        if (next->done == MESSAGE_HEAD + (uint64_t)next->payload.len) {
            drop_first(lane);
        } else if (channel_room(&lane->out) == 0) {
            ring(lane);
            if (!channel_want(&lane->out)) {
                return;
            }
        }
    }
    ring(lane);
}

/* Enters a message among those that wait. Takes the payload over, also if it fails. */
static int
put_off(struct lane *lane, const unsigned char *head, Py_buffer *payload)
{
    struct waiting *added = PyMem_Malloc(sizeof *added);

    if (added == NULL) {
        PyBuffer_Release(payload);
        PyErr_NoMemory();
        return -1;
    }
    memcpy(added->head, head, MESSAGE_HEAD);
    added->payload = *payload;
    added->done = 0;
    added->next = NULL;
    *lane->last = added;
    lane->last = &added->next;
    return 0;
}

bool
lane_fits(const struct lane *lane, Py_ssize_t size)
{
    return lane->memory != NULL && lane->first == NULL &&
           channel_room(&lane->out) >= MESSAGE_HEAD + (uint64_t)size;
}

bool
lane_post(struct lane *lane, const struct envelope *envelope, struct header *header,
          const Py_buffer *payload)
{
    unsigned char head[MESSAGE_HEAD];

    header->size = HEADER_SIZE + (uint64_t)payload->len;
    if (!lane_fits(lane, payload->len)) {
        return false;
    }
    store_envelope(head, envelope);
    store_header(head + ENVELOPE_SIZE, header);
    channel_put(&lane->out, head, MESSAGE_HEAD);
    channel_put(&lane->out, payload->buf, (uint64_t)payload->len);
    channel_publish(&lane->out);
    ring(lane);
    return true;
}

void
lane_flush(struct lane *lane)
{
    if (lane->memory != NULL && lane->first != NULL) {
        flush(lane);
    }
}

PyDoc_STRVAR(send_doc, "send($self, number, acked, code, seq, payload, /)\n--\n\n"
                       "Send a message. What there is no room for waits, and goes with `flush`: its "
                       "payload must not change until then.");

static PyObject *
lane_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct lane *lane = lane_of(self);
    struct envelope envelope;
    struct header header;
    unsigned char head[MESSAGE_HEAD];
    Py_buffer payload;

    if (require_open(lane) < 0 || require_count("send", nargs, 5) < 0 ||
        as_unsigned(args[0], "number", UINT64_MAX, &envelope.number) < 0 ||
        as_unsigned(args[1], "acked", UINT64_MAX, &envelope.acked) < 0 ||
        header_from_arguments(args[2], args[3], &header) < 0 ||
        PyObject_GetBuffer(args[4], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (lane_post(lane, &envelope, &header, &payload)) {
        PyBuffer_Release(&payload);
        Py_RETURN_NONE;
    }
    store_envelope(head, &envelope);
    store_header(head + ENVELOPE_SIZE, &header);
    if (put_off(lane, head, &payload) < 0) {
        return NULL;
    }
    flush(lane);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(flush_doc, "flush($self, /)\n--\n\n"
                        "Send what waits, as far as there is room now.");

static PyObject *
flush_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (require_open(lane_of(self)) < 0) {
        return NULL;
    }
    lane_flush(lane_of(self));
    Py_RETURN_NONE;
}

static PyObject *
malformed(PyObject *self, const char *what, uint64_t found)
{
    struct native_state *state = PyType_GetModuleState(Py_TYPE(self));
    lane_of(self)->broken = true;
    PyErr_Format(state->malformed, what, (unsigned long long)found);
    return NULL;
}

static void
load_head(const unsigned char *head, struct envelope *envelope, struct header *header)
{
    envelope->number = load_little_endian(head, 8);
    envelope->acked = load_little_endian(head + 8, 8);
    header->size = load_little_endian(head + ENVELOPE_SIZE, 8);
    header->seq = load_little_endian(head + ENVELOPE_SIZE + 8, 8);
    header->code = head[ENVELOPE_SIZE + 16];
}

/* The head of the next message, if all of it is there. 1, 0 if not, -1 with an exception. */
static int
begin_message(PyObject *self, uint64_t filled, uint64_t max_message)
{
    struct lane *lane = lane_of(self);
    unsigned char head[MESSAGE_HEAD];

    if (filled < MESSAGE_HEAD) {
        return 0;
    }
    channel_take(&lane->in, head, MESSAGE_HEAD);
    load_head(head, &lane->envelope, &lane->header);
    if (lane->header.size < HEADER_SIZE || lane->header.size > max_message) {
        malformed(self, "a message of %llu bytes", lane->header.size);
        return -1;
    }
    lane->payload =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(lane->header.size - HEADER_SIZE));
    lane->arrived = 0;
    return lane->payload == NULL ? -1 : 1;
}

/* What has been read of the channel makes room; and whoever waits for that is told. */
static void
make_room(struct lane *lane)
{
    if (channel_release(&lane->in)) {
        ring(lane);
    }
}

enum lane_found
lane_peek(struct lane *lane, uint64_t max_message, struct envelope *envelope,
          struct header *header)
{
    unsigned char head[MESSAGE_HEAD];
    uint64_t filled;

    if (lane->memory == NULL || lane->broken) {
        return LANE_EMPTY;
    }
    if (!channel_filled(&lane->in, &filled) || lane->payload != NULL) {
        return LANE_OTHER;
    }
    if (filled < MESSAGE_HEAD) {
        return filled == 0 ? LANE_EMPTY : LANE_OTHER;
    }
    channel_peek(&lane->in, head, MESSAGE_HEAD);
    load_head(head, envelope, header);
    const bool whole = header->size >= HEADER_SIZE && header->size <= max_message &&
                       header->size <= filled - ENVELOPE_SIZE;
    return whole ? LANE_WHOLE : LANE_OTHER;
}

void
lane_take(struct lane *lane, const struct header *header, void *payload)
{
    channel_skip(&lane->in, MESSAGE_HEAD);
    channel_take(&lane->in, payload, header->size - HEADER_SIZE);
    make_room(lane);
}

PyDoc_STRVAR(receive_doc, "receive($self, max_message, /)\n--\n\n"
                          "(number, acked, code, seq, payload) of the next message, None if it is "
                          "not there yet. Malformed, once, if nothing that comes can be believed any more.");

static PyObject *
lane_receive(PyObject *self, PyObject *argument)
{
    struct lane *lane = lane_of(self);
    uint64_t max_message;
    uint64_t filled;

    if (require_open(lane) < 0 || as_unsigned(argument, "max_message", INT64_MAX, &max_message) < 0) {
        return NULL;
    }
    if (lane->broken) {
        Py_RETURN_NONE;
    }
    if (!channel_filled(&lane->in, &filled)) {
        return malformed(self, "%llu bytes in a channel that has room for less", filled);
    }
    if (lane->payload == NULL) {
        const int begun = begin_message(self, filled, max_message);
        if (begun <= 0) {
            return begun < 0 ? NULL : Py_NewRef(Py_None);
        }
        filled -= MESSAGE_HEAD;
    }
    const uint64_t missing = (uint64_t)PyBytes_GET_SIZE(lane->payload) - lane->arrived;
    const uint64_t count = filled < missing ? filled : missing;
    channel_take(&lane->in, PyBytes_AS_STRING(lane->payload) + lane->arrived, count);
    lane->arrived += count;
    make_room(lane);
    if (count < missing) {
        Py_RETURN_NONE;
    }
    PyObject *payload = lane->payload;
    lane->payload = NULL;
    return Py_BuildValue("KKiKN", (unsigned long long)lane->envelope.number,
                         (unsigned long long)lane->envelope.acked, (int)lane->header.code,
                         (unsigned long long)lane->header.seq, payload);
}

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
    {"receive", lane_receive, METH_O, receive_doc},
    {"close", lane_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lane_attributes[] = {
    {"waits", lane_get_waits, NULL, "Whether anything sent waits for room.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(lane_doc, "Lane(memory, first)\n--\n\n"
                       "One end of the lane in this Shared memory: its maker is the `first`.");

static PyType_Slot lane_slots[] = {
    {Py_tp_doc, (void *)lane_doc},
    {Py_tp_new, lane_new},
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_methods, lane_methods},
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
    PyObject *type = PyType_FromModuleAndSpec(module, &lane_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    const int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}
