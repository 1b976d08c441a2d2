#define _GNU_SOURCE /* the clock */

#include "lane_parts.h"

#include "arguments.h"
#include "clock.h"

#include <sched.h>

/* How long a full lane is waited for before what is sent queues up. */
static const int64_t READER_WAIT_NS = 200000;

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
    if (gone != lane->going) {
        lane_drop_place(gone);
    }
}

static uint64_t
lesser(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

/* Copies the next bytes of a payload. Much of it without the interpreter lock: then anything may have
 * been done to the lane meanwhile, but to what goes out. */
static void
put_payload(struct lane *lane, const struct waiting *message, uint64_t count)
{
    const unsigned char *from =
        (const unsigned char *)message->payload.buf + (message->done - MESSAGE_HEAD);

    if (count < LARGE) {
        channel_put(&lane->out, from, count);
    } else {
        Py_BEGIN_ALLOW_THREADS
        channel_put(&lane->out, from, count);
        Py_END_ALLOW_THREADS
    }
}

/* Puts the next piece of a message, if there is room: how many bytes. */
static uint64_t
put_piece(struct lane *lane, struct waiting *message)
{
    const uint64_t room = lane->wish != 0 ? 0 : channel_room(&lane->out);
    uint64_t put = 0;

    if (message->done == 0) {
        if (room < MESSAGE_HEAD) {
            return 0; /* a reader takes heads whole, or not at all */
        }
        channel_put(&lane->out, message->head, MESSAGE_HEAD);
        message->done = put = MESSAGE_HEAD;
    }
    const uint64_t piece = lesser(lesser(message_size(message) - message->done, room - put), PIECE);
    if (piece > 0) {
        put_payload(lane, message, piece);
        message->done += piece;
    }
    return put + piece;
}

/* Puts what waits, as far as there is room, but no more than about so many bytes. True if that was
 * what ended it. */
static bool
put_waiting(struct lane *lane, uint64_t most)
{
    uint64_t all = 0;

    while (lane->memory != NULL && lane->first != NULL && all < most) {
        struct waiting *message = lane->first;
        lane_begin_window(lane, message);
        lane->going = message;
        const uint64_t put = put_piece(lane, message);
        lane->going = NULL;
        if (lane->memory == NULL) {
            lane_drop_place(message); /* closed meanwhile, and left to us */
            return false;
        }
        all += put;
        if (put > 0) {
            channel_publish(&lane->out);
            lane_ring(lane);
        }
        if (message->done == message_size(message)) {
            lane_drop_first(lane);
        } else if (put == 0 && !lane_make_room(lane, message)) {
            return false;
        }
    }
    return lane->memory != NULL && lane->first != NULL;
}

/* The same. One thread at a time puts; it goes on with what others add. */
static bool
flush(struct lane *lane, uint64_t most)
{
    if (lane->putting.memory != NULL || lane->first == NULL) {
        return false;
    }
    lane_hold(lane, &lane->putting);
    const bool more = put_waiting(lane, most);
    lane_let_go(&lane->putting);
    return more;
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

static void
enqueue(struct lane *lane, struct waiting *place, const struct envelope *envelope,
        struct header *header)
{
    header->size = HEADER_SIZE + (uint64_t)place->payload.len;
    store_envelope(place->head, envelope);
    store_header(place->head + ENVELOPE_SIZE, header);
    *lane->last = place;
    lane->last = &place->next;
}

void
lane_post_behind(struct lane *lane, struct waiting *place, const struct envelope *envelope,
                 struct header *header)
{
    enqueue(lane, place, envelope, header);
    flush(lane, UINT64_MAX);
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
lane_fits(struct lane *lane, Py_ssize_t size)
{
    const uint64_t whole = MESSAGE_HEAD + (uint64_t)size;

    if (lane->memory == NULL || lane->first != NULL || size >= LARGE) {
        return false;
    }
    return lane_stretch(lane, whole) && channel_room(&lane->out) >= whole;
}

bool
lane_is_crowded(const struct lane *lane, Py_ssize_t size)
{
    const uint64_t whole = MESSAGE_HEAD + (uint64_t)size;

    return lane->memory != NULL && size < LARGE && lane->out.window >= STREAM &&
           channel_room(&lane->out) < whole;
}

void
lane_await_reader(PyObject *self)
{
    struct lane *lane = lane_of(self);
    PyObject *memory = Py_NewRef(lane->memory); /* also if the lane is closed meanwhile */
    const struct channel_end out = lane->out;

    Py_INCREF(self);
    lane_publish(lane);
    Py_BEGIN_ALLOW_THREADS
    const int64_t until = now_ns() + READER_WAIT_NS;
    do {
        sched_yield();
    } while (channel_room(&out) < out.window / 4 && now_ns() < until);
    Py_END_ALLOW_THREADS
    Py_DECREF(memory);
    Py_DECREF(self);
}

void
lane_put(struct lane *lane, const struct envelope *envelope, struct header *header,
         const Py_buffer *payload)
{
    unsigned char head[MESSAGE_HEAD];

    header->size = HEADER_SIZE + (uint64_t)payload->len;
    store_envelope(head, envelope);
    store_header(head + ENVELOPE_SIZE, header);
    channel_put(&lane->out, head, MESSAGE_HEAD);
    channel_put(&lane->out, payload->buf, (uint64_t)payload->len);
}

void
lane_publish(struct lane *lane)
{
    if (lane->memory != NULL) {
        channel_publish(&lane->out);
        lane_ring(lane);
    }
}

bool
lane_flush(struct lane *lane, uint64_t most)
{
    return lane->memory != NULL && flush(lane, most);
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
    if (lane_fits(lane, payload.len)) {
        lane_put(lane, &envelope, &header, &payload);
        lane_publish(lane);
        PyBuffer_Release(&payload);
        Py_RETURN_FALSE;
    }
    struct waiting *place = place_for(&payload);
    if (place == NULL) {
        return NULL;
    }
    enqueue(lane, place, &envelope, &header);
    return PyBool_FromLong(flush(lane, LANE_TURN));
}
