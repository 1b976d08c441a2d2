#include "lane_parts.h"

#include "arguments.h"

static void
load_head(const unsigned char *head, struct envelope *envelope, struct header *header)
{
    envelope->number = load_little_endian(head, 8);
    envelope->acked = load_little_endian(head + 8, 8);
    header->size = load_little_endian(head + ENVELOPE_SIZE, 8);
    header->seq = load_little_endian(head + ENVELOPE_SIZE + 8, 8);
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

static PyObject *
malformed(PyObject *self, const char *what, uint64_t found)
{
    struct native_state *state = PyType_GetModuleState(Py_TYPE(self));
    lane_of(self)->broken = true;
    PyErr_Format(state->malformed, what, (unsigned long long)found);
    return NULL;
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
