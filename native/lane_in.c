#include "lane_parts.h"

#include "arguments.h"
#include "fresh_bytes.h"

static void
load_head(const unsigned char *head, struct envelope *envelope, struct header *header)
{
    envelope->number = load_u64(head);
    envelope->acked = load_u64(head + 8);
    header->size = load_u64(head + ENVELOPE_SIZE);
    header->seq = load_u64(head + ENVELOPE_SIZE + 8);
    header->code = head[ENVELOPE_SIZE + 16];
}

/* What has been read of the channel makes room; and whoever waits for that is told. */
static void
make_room(struct lane *lane)
{
    if (channel_release(&lane->in)) {
        lane_ring(lane);
    }
}

/* Whether this can be the size of a message. */
static bool
is_size(uint64_t size, uint64_t max_message)
{
    return size >= HEADER_SIZE && size <= max_message;
}

/* Begins to take the message out whose beginning was seen, into this payload, which is taken over. The
 * head makes room at once: the rest may not be there, and its writer wait until everything has been
 * read, for a larger window. -1 if there is no payload. */
static int
begin(struct lane *lane, const struct envelope *envelope, const struct header *header,
      PyObject *payload)
{
    if (payload == NULL) {
        return -1;
    }
    lane->payload = payload;
    channel_skip(&lane->in, MESSAGE_HEAD);
    make_room(lane);
    lane->envelope = *envelope;
    lane->header = *header;
    lane->arrived = 0;
    return 0;
}

/* What comes instead of a payload for which there is no memory, if somebody waits for this message and
 * can be told: how many bytes it has. NULL with MemoryError otherwise: it waits for memory. */
static PyObject *
without_payload(const struct header *header)
{
    if (header->seq == 0 || header->size < LARGE || !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return NULL;
    }
    PyErr_Clear();
    return PyLong_FromUnsignedLongLong(header->size - HEADER_SIZE);
}

static void
take_piece(struct lane *lane, unsigned char *to, uint64_t count)
{
    if (to == NULL) {
        channel_skip(&lane->in, count);
    } else if (count < LARGE) {
        channel_take(&lane->in, to, count);
    } else {
        Py_BEGIN_ALLOW_THREADS
        channel_take(&lane->in, to, count);
        Py_END_ALLOW_THREADS
    }
}

/* Takes out what is there of the message that has begun. Whether all of it has arrived; not if the
 * lane was closed meanwhile, or what is there cannot be believed. */
static bool
advance(struct lane *lane)
{
    const uint64_t size = lane->header.size - HEADER_SIZE;
    PyObject *payload = Py_NewRef(lane->payload);
    unsigned char *to =
        PyBytes_CheckExact(payload) ? (unsigned char *)PyBytes_AS_STRING(payload) : NULL;
    uint64_t filled;

    lane_hold(lane, &lane->taking);
    while (lane->memory != NULL && lane->arrived < size && channel_filled(&lane->in, &filled) &&
           filled > 0) {
        const uint64_t missing = size - lane->arrived;
        uint64_t count = filled < missing ? filled : missing;
        count = count < PIECE ? count : PIECE;
        take_piece(lane, to == NULL ? NULL : to + lane->arrived, count);
        lane->arrived += count;
        if (lane->memory != NULL) {
            make_room(lane);
        }
    }
    const bool whole = lane->memory != NULL && lane->arrived == size;
    lane_let_go(&lane->taking);
    Py_DECREF(payload);
    return whole;
}

/* The beginning of the next message, if it is there and can be one. */
static bool
see_head(struct lane *lane, uint64_t max_message, struct envelope *envelope, struct header *header)
{
    unsigned char head[MESSAGE_HEAD];

    channel_peek(&lane->in, head, MESSAGE_HEAD);
    load_head(head, envelope, header);
    return is_size(header->size, max_message);
}

enum lane_found
lane_peek(struct lane *lane, uint64_t max_message, struct envelope *envelope,
          struct header *header)
{
    if (lane->memory == NULL || lane->broken) {
        return LANE_EMPTY;
    }
    uint64_t filled = channel_seen(&lane->in);
    if (filled < MESSAGE_HEAD && !channel_filled(&lane->in, &filled)) {
        return LANE_OTHER;
    }
    if (lane->payload == NULL) {
        if (filled < MESSAGE_HEAD) {
            return LANE_EMPTY;
        }
        if (!see_head(lane, max_message, envelope, header)) {
            return LANE_OTHER;
        }
        if (header->size > filled - ENVELOPE_SIZE && !channel_filled(&lane->in, &filled)) {
            return LANE_OTHER;
        }
        if (header->size < LARGE && header->size <= filled - ENVELOPE_SIZE) {
            return LANE_WHOLE;
        }
        if (begin(lane, envelope, header, fresh_bytes(header->size - HEADER_SIZE)) < 0) {
            PyErr_Clear(); /* `receive` will say so */
            return LANE_OTHER;
        }
    }
    if (!PyBytes_CheckExact(lane->payload)) {
        return LANE_OTHER;
    }
    *envelope = lane->envelope;
    *header = lane->header;
    if (advance(lane)) {
        return LANE_WHOLE;
    }
    return lane->memory != NULL && !channel_filled(&lane->in, &filled) ? LANE_OTHER : LANE_EMPTY;
}

PyObject *
lane_take(struct lane *lane, const struct header *header)
{
    PyObject *payload = lane->payload;

    if (payload != NULL) {
        lane->payload = NULL;
        return payload;
    }
    payload = fresh_bytes(header->size - HEADER_SIZE);
    if (payload != NULL) {
        channel_skip(&lane->in, MESSAGE_HEAD);
        channel_take(&lane->in, PyBytes_AS_STRING(payload), header->size - HEADER_SIZE);
        if (channel_release_much(&lane->in)) {
            lane_ring(lane);
        }
    }
    return payload;
}

void
lane_taken(struct lane *lane)
{
    if (lane->memory != NULL && lane->in.released != lane->in.at) {
        make_room(lane);
    }
}

void
lane_put_back(struct lane *lane, const struct envelope *envelope, const struct header *header,
              PyObject *payload)
{
    lane->envelope = *envelope;
    lane->header = *header;
    lane->payload = payload;
    lane->arrived = header->size - HEADER_SIZE;
}

static PyObject *
malformed(PyObject *self, const char *what, uint64_t found)
{
    struct native_state *state = PyType_GetModuleState(Py_TYPE(self));
    lane_of(self)->broken = true;
    PyErr_Format(state->malformed, what, (unsigned long long)found);
    return NULL;
}

/* The beginning of the next message, if all of it is there. 1, 0 if not, -1 with an exception. */
static int
begin_message(PyObject *self, uint64_t filled, uint64_t max_message)
{
    struct lane *lane = lane_of(self);
    struct envelope envelope;
    struct header header;

    if (filled < MESSAGE_HEAD) {
        return 0;
    }
    if (!see_head(lane, max_message, &envelope, &header)) {
        malformed(self, "a message of %llu bytes", header.size);
        return -1;
    }
    PyObject *payload = fresh_bytes(header.size - HEADER_SIZE);
    return begin(lane, &envelope, &header, payload == NULL ? without_payload(&header) : payload) < 0
               ? -1
               : 1;
}

PyObject *
lane_receive(PyObject *self, PyObject *argument)
{
    struct lane *lane = lane_of(self);
    uint64_t max_message;
    uint64_t filled;

    if (lane_require_open(lane) < 0 || as_unsigned(argument, "max_message", INT64_MAX, &max_message) < 0) {
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
    }
    if (!advance(lane)) {
        Py_RETURN_NONE;
    }
    PyObject *found = Py_BuildValue("KKiKO", (unsigned long long)lane->envelope.number,
                                    (unsigned long long)lane->envelope.acked,
                                    (int)lane->header.code, (unsigned long long)lane->header.seq,
                                    lane->payload);
    if (found != NULL) {
        Py_CLEAR(lane->payload); /* otherwise it is still there */
    }
    return found;
}
