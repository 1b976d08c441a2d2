#include "zeromq_parts.h"

#include "fresh_bytes.h"

#include <errno.h>

/* The next frame into `message`, which is initialized. 0, or ZeroMQ's error number. */
static int
next_frame(const struct port *port, struct message *message)
{
    while (port->zmq.receive(message, port->socket, ZMQ_DONTWAIT) < 0) {
        const int number = port->zmq.error();
        if (number != EINTR) {
            return number;
        }
    }
    return 0;
}

static PyObject *
bytes_of(const struct port *port, struct message *message)
{
    const size_t size = port->zmq.size(message);
    const void *data = port->zmq.data(message);

    if (size < MUCH) {
        return PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    }
    PyObject *bytes = fresh_bytes(size);
    if (bytes != NULL) {
        char *to = PyBytes_AS_STRING(bytes);
        Py_BEGIN_ALLOW_THREADS
        memcpy(to, data, size);
        Py_END_ALLOW_THREADS
    }
    return bytes;
}

/* ---- taking */

/* Takes frames as long as there are more. -1 with an exception. */
static int
take_frames(const struct port *port, struct arrival *arrival)
{
    while (arrival->count < ARRIVAL_FRAMES &&
           port->zmq.more(&arrival->frames[arrival->count - 1])) {
        struct message *frame = &arrival->frames[arrival->count];
        port->zmq.init(frame);
        arrival->count++;
        const int number = next_frame(port, frame);
        if (number != 0) {
            port_failed(number);
            return -1;
        }
    }
    return 0;
}

/* Finds out where it comes from, which its first frame says. -1 with an exception. */
static int
find_connection(const struct port *port, PyObject *known, struct arrival *arrival)
{
    arrival->route = bytes_of(port, &arrival->frames[0]);
    if (arrival->route == NULL) {
        return -1;
    }
    arrival->connection = Py_XNewRef(PyDict_GetItemWithError(known, arrival->route));
    return arrival->connection == NULL && PyErr_Occurred() ? -1 : 0;
}

int
port_take(PyObject *self, PyObject *known, struct arrival *arrival)
{
    const struct port *port = port_of(self);

    arrival->count = 1;
    arrival->route = NULL;
    arrival->connection = NULL;
    port->zmq.init(&arrival->frames[0]);
    const int number = next_frame(port, &arrival->frames[0]);
    if (number != 0) {
        port->zmq.close(&arrival->frames[0]);
        if (number != EAGAIN) {
            port_failed(number);
        }
        return number == EAGAIN ? 0 : -1;
    }
    if (take_frames(port, arrival) < 0 || find_connection(port, known, arrival) < 0) {
        port_end(self, arrival);
        return -1;
    }
    return 1;
}

/* Drops the frames that have not been taken, so that the next message begins at its beginning. */
static void
drop_rest(const struct port *port, struct message *last)
{
    while (port->zmq.more(last) && next_frame(port, last) == 0) {
    }
}

void
port_end(PyObject *self, struct arrival *arrival)
{
    const struct port *port = port_of(self);

    drop_rest(port, &arrival->frames[arrival->count - 1]);
    for (int i = 0; i < arrival->count; i++) {
        port->zmq.close(&arrival->frames[i]);
    }
    Py_CLEAR(arrival->route);
    Py_CLEAR(arrival->connection);
}

/* ---- looking at what was taken */

bool
port_has_head(PyObject *self, struct arrival *arrival, struct envelope *envelope,
              struct header *header)
{
    const struct port *port = port_of(self);
    struct message *frames = arrival->frames;

    if (arrival->connection == NULL || arrival->count != 3 ||
        port->zmq.size(&frames[1]) != ENVELOPE_SIZE || port->zmq.size(&frames[2]) < HEADER_SIZE) {
        return false;
    }
    const unsigned char *at = port->zmq.data(&frames[1]);
    envelope->number = load_u64(at);
    envelope->acked = load_u64(at + 8);
    at = port->zmq.data(&frames[2]);
    header->size = load_u64(at);
    header->seq = load_u64(at + 8);
    header->code = at[16];
    return true;
}

const unsigned char *
port_plain_payload(PyObject *self, struct arrival *arrival, const struct header *header)
{
    const struct port *port = port_of(self);
    struct message *last = &arrival->frames[2];
    const bool plain = !port->zmq.more(last) && header->size == port->zmq.size(last);

    return plain ? (const unsigned char *)port->zmq.data(last) + HEADER_SIZE : NULL;
}

/* All frames behind the route, as a list, but for those of a message that has too many. */
static PyObject *
frames_of(const struct port *port, struct arrival *arrival)
{
    PyObject *frames = PyList_New(0);
    struct message *last = &arrival->frames[arrival->count - 1];
    int taken = 1;

    while (frames != NULL && PyList_GET_SIZE(frames) < MOST_FRAMES) {
        if (taken == arrival->count) {
            const int number = port->zmq.more(last) ? next_frame(port, last) : -1;
            if (number > 0) {
                Py_DECREF(frames);
                return port_failed(number);
            }
            if (number < 0) {
                break;
            }
        }
        PyObject *frame =
            bytes_of(port, taken < arrival->count ? &arrival->frames[taken++] : last);
        if (frame == NULL || PyList_Append(frames, frame) < 0) {
            Py_CLEAR(frames);
        }
        Py_XDECREF(frame);
    }
    return frames;
}

PyObject *
port_give(PyObject *self, struct arrival *arrival)
{
    const struct port *port = port_of(self);
    struct message *first = &arrival->frames[0];
    PyObject *user_id = NULL;
    PyObject *result = NULL;
    int descriptor = -1;

    if (arrival->connection == NULL) {
        /* Copied now: it may belong to the frame, which others may replace. */
        const char *user = port->zmq.gets(first, "User-Id");
        user_id = PyBytes_FromString(user == NULL ? "" : user);
        if (user_id == NULL) {
            return NULL;
        }
        descriptor = port->zmq.get(first, ZMQ_SRCFD);
    }
    PyObject *frames = frames_of(port, arrival);
    if (frames != NULL) {
        result = arrival->connection != NULL
                     ? PyTuple_Pack(2, arrival->connection, frames)
                     : Py_BuildValue("OOiO", arrival->route, user_id, descriptor, frames);
    }
    Py_XDECREF(frames);
    Py_XDECREF(user_id);
    return result;
}

PyObject *
port_receive(PyObject *self, PyObject *known)
{
    struct arrival arrival;
    PyObject *result = NULL;

    if (!PyDict_Check(known)) {
        PyErr_SetString(PyExc_TypeError, "receive() takes a dict");
        return NULL;
    }
    if (port_require_open(port_of(self)) < 0) {
        return NULL;
    }
    const int taken = port_take(self, known, &arrival);
    if (taken <= 0) {
        return taken < 0 ? NULL : Py_NewRef(Py_None);
    }
    result = port_give(self, &arrival);
    port_end(self, &arrival);
    return result;
}
