#include "lane_parts.h"

#include "arguments.h"

void
lane_drop_place(struct waiting *place)
{
    PyBuffer_Release(&place->payload);
    PyMem_Free(place);
}

void
lane_drop_first(struct lane *lane)
{
    struct waiting *gone = lane->first;

    lane->first = gone->next;
    if (lane->first == NULL) {
        lane->last = &lane->first;
    }
    lane_drop_place(gone);
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

/* Takes the payload over, also if it fails. */
static struct waiting *
place_for(Py_buffer *payload)
{
    struct waiting *place = PyMem_Calloc(1, sizeof *place);

    if (place == NULL) {
        PyBuffer_Release(payload);
        PyErr_NoMemory();
    } else {
        place->payload = *payload;
    }
    return place;
}

struct waiting *
lane_place(PyObject *bytes)
{
    Py_buffer payload;

    return PyObject_GetBuffer(bytes, &payload, PyBUF_SIMPLE) < 0 ? NULL : place_for(&payload);
}

void
lane_post_behind(struct lane *lane, struct waiting *place, const struct envelope *envelope,
                 struct header *header)
{
    header->size = HEADER_SIZE + (uint64_t)place->payload.len;
    store_envelope(place->head, envelope);
    store_header(place->head + ENVELOPE_SIZE, header);
    *lane->last = place;
    lane->last = &place->next;
    flush(lane);
}

bool
lane_waits(const struct lane *lane)
{
    return lane->first != NULL;
}

bool
lane_is_open(const struct lane *lane)
{
    return lane->memory != NULL;
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
    struct waiting *place = place_for(&payload);
    if (place == NULL) {
        return NULL;
    }
    lane_post_behind(lane, place, &envelope, &header);
    Py_RETURN_NONE;
}
