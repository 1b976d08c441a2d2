#include "lane_parts.h"

#include "arguments.h"

void
lane_drop_first(struct lane *lane)
{
    struct waiting *gone = lane->first;

    lane->first = gone->next;
    if (lane->first == NULL) {
        lane->last = &lane->first;
    }
    PyBuffer_Release(&gone->payload);
    PyMem_Free(gone);
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
            lane_drop_first(lane);
        } else if (channel_room(&lane->out) == 0) {
            lane_ring(lane);
            if (!channel_want(&lane->out)) {
                return;
            }
        }
    }
    lane_ring(lane);
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
    lane_ring(lane);
    return true;
}

void
lane_flush(struct lane *lane)
{
    if (lane->memory != NULL && lane->first != NULL) {
        flush(lane);
    }
}

PyObject *
lane_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct lane *lane = lane_of(self);
    struct envelope envelope;
    struct header header;
    unsigned char head[MESSAGE_HEAD];
    Py_buffer payload;

    if (lane_require_open(lane) < 0 || require_count("send", nargs, 5) < 0 ||
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
