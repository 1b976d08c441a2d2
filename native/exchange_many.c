#include "exchange_parts.h"

#include "arguments.h"
#include "lane.h"

/* Messages to one peer that are published at a time: its reader has work meanwhile. */
enum { PUBLISHED_AT_A_TIME = 16 };

/* Sends a plain message of the program's. 1, 0 if it has to be sent the long way, -1 with an exception. */
static int
post_plain(struct exchange *exchange, uint64_t peer, uint64_t code, PyObject *payload, bool quietly)
{
    struct sending sending = {.header = {.code = code}, .quietly = quietly};

    if (!exchange_is_plain(exchange, payload, code)) {
        return 0;
    }
    if (sending_begin(&sending, payload) < 0) {
        return -1;
    }
    const int sent = exchange_post(exchange, peer, &sending);
    sending_end(&sending);
    return sent;
}

/* What was sent quietly is there for the peer. */
static void
publish(const struct exchange *exchange, uint64_t peer)
{
    const struct station *station = stations_find(&exchange->stations, peer);

    if (station != NULL) {
        lane_publish(lane_of(station->lane));
    }
}

/* Sends as many payloads to one peer as can be, from this place on. The place of the first that was not
 * sent, -1 with an exception. */
static Py_ssize_t
post_from(struct exchange *exchange, uint64_t peer, uint64_t code, PyObject *payloads,
          Py_ssize_t place)
{
    Py_ssize_t published = place;
    int sent = 1;

    while (place < PyTuple_GET_SIZE(payloads)) {
        sent = post_plain(exchange, peer, code, PyTuple_GET_ITEM(payloads, place), true);
        if (sent <= 0) {
            break;
        }
        place++;
        if (place - published == PUBLISHED_AT_A_TIME) {
            publish(exchange, peer);
            published = place;
        }
    }
    if (place > published) {
        publish(exchange, peer);
    }
    return sent < 0 ? -1 : place;
}

PyObject *
exchange_post_many(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t peer;
    uint64_t code;
    uint64_t place;

    if (require_count("post_many", nargs, 4) < 0 ||
        as_unsigned(args[3], "place", PY_SSIZE_T_MAX, &place) < 0) {
        return NULL;
    }
    if (!PyTuple_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "post_many() takes a tuple of payloads");
        return NULL;
    }
    if (as_unsigned(args[0], "peer", UINT32_MAX, &peer) < 0 ||
        as_unsigned(args[1], "code", UINT8_MAX, &code) < 0) {
        PyErr_Clear(); /* the long way says what is wrong */
        return PyLong_FromUnsignedLongLong(place);
    }
    const Py_ssize_t next =
        post_from(exchange_of(self), peer, code, args[2], (Py_ssize_t)place);
    return next < 0 ? NULL : PyLong_FromSsize_t(next);
}

/* Adds the peers of a tuple to whom the message was not sent. */
static int
post_to_each(struct exchange *exchange, PyObject *peers, uint64_t code, PyObject *payload,
             PyObject *left)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(peers); i++) {
        uint64_t peer;
        if (as_unsigned(PyTuple_GET_ITEM(peers, i), "peer", UINT32_MAX, &peer) < 0) {
            return -1;
        }
        const int sent = post_plain(exchange, peer, code, payload, false);
        if (sent < 0 || (sent == 0 && PyList_Append(left, PyTuple_GET_ITEM(peers, i)) < 0)) {
            return -1;
        }
    }
    return 0;
}

PyObject *
exchange_post_all(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t code;

    if (require_count("post_all", nargs, 3) < 0 ||
        as_unsigned(args[1], "code", UINT8_MAX, &code) < 0) {
        return NULL;
    }
    if (!PyTuple_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "post_all() takes a tuple of peers");
        return NULL;
    }
    PyObject *left = PyList_New(0);
    if (left != NULL && post_to_each(exchange_of(self), args[0], code, args[2], left) < 0) {
        Py_CLEAR(left);
    }
    return left;
}
