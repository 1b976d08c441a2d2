#include "exchange_parts.h"

#include "arguments.h"
#include "calls.h"
#include "clock.h"
#include "lane.h"
#include "ledger.h"
#include "ticket.h"

/* Whether nothing can be reached from here, so that the collector need not look. */
static bool
is_plain_value(PyObject *value)
{
    return PyLong_CheckExact(value) || PyBytes_CheckExact(value) || value == Py_None;
}

PyObject *
exchange_tuple(PyObject *type, PyObject *const fields[FIELDS])
{
    bool whole = true;
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        whole = whole && fields[i] != NULL;
    }
    PyObject *made =
        whole ? ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, FIELDS) : NULL;
    bool plain = true;
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        if (made != NULL) {
            PyTuple_SET_ITEM(made, i, fields[i]);
            plain = plain && is_plain_value(fields[i]);
        } else {
            Py_XDECREF(fields[i]);
        }
    }
    if (made != NULL && plain) {
        PyObject_GC_UnTrack(made); /* of a stream there are thousands at a time */
    }
    return made;
}

int
sending_begin(struct exchange *exchange, struct sending *sending, PyObject *code, PyObject *seq,
              PyObject *payload)
{
    if (PyObject_GetBuffer(payload, &sending->payload, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    PyObject *const fields[FIELDS] = {Py_NewRef(code), Py_NewRef(seq), Py_NewRef(payload),
                                      PyLong_FromLong(0)};
    sending->outgoing = exchange_tuple(exchange->outgoing, fields);
    if (sending->outgoing == NULL) {
        PyBuffer_Release(&sending->payload);
        return -1;
    }
    return 0;
}

void
sending_end(struct sending *sending)
{
    Py_XDECREF(sending->entry);
    Py_DECREF(sending->outgoing);
    PyBuffer_Release(&sending->payload);
}

/* Enters a request and writes its number into what is kept of it, which nobody else has yet. */
static int
number_request(struct requests *table, uint64_t peer, struct sending *sending)
{
    PyObject *seq = PyLong_FromUnsignedLongLong(table->last + 1);

    if (seq == NULL || requests_add(table, peer, sending->entry) < 0) {
        Py_XDECREF(seq);
        return -1;
    }
    sending->header.seq = table->last;
    PyObject *before = PyTuple_GET_ITEM(sending->outgoing, 1);
    PyTuple_SET_ITEM(sending->outgoing, 1, seq);
    Py_DECREF(before);
    return 0;
}

/* Sends what waits for room in the lane to this peer, if there is some: the bell that tells of it may
 * have been heard by a thread that has not come to run. */
static void
flush_lane(struct exchange *exchange, uint64_t peer)
{
    struct station *station = stations_find(&exchange->stations, peer);

    if (station != NULL && lane_waits(lane_of(station->lane))) {
        PyObject *lane = Py_NewRef(station->lane); /* dropping what was sent may run Python code */
        lane_flush(lane_of(lane), UINT64_MAX);
        Py_DECREF(lane);
    }
}

int
exchange_stamp(struct exchange *exchange, uint64_t peer, PyObject *ledger,
               struct sending *sending, uint64_t size, struct envelope *envelope)
{
    struct requests *table = outstanding_table(exchange->requests);
    const double now = (double)recent_ns() / NS_PER_S;

    if (sending->entry != NULL && number_request(table, peer, sending) < 0) {
        return -1;
    }
    if (ledger_stamp(ledger, sending->outgoing, size, now, &envelope->number) < 0) {
        if (sending->entry != NULL) {
            Py_DECREF(requests_remove(table, requests_find(table, sending->header.seq)));
        }
        return -1;
    }
    if (sending->entry != NULL) {
        /* Now: the answer may be there before a large request has gone. */
        ticket_set_number(PyTuple_GET_ITEM(sending->entry, 1), sending->header.seq);
    }
    envelope->acked = ledger_acknowledge(ledger);
    return 0;
}

/* Whether a message of so many bytes may go to this peer now, from here. */
static bool
may_go(const struct exchange *exchange, const struct station *station, uint64_t size)
{
    return station->writes && lane_is_open(lane_of(station->lane)) &&
           (size == 0 || ledger_has_room(station->ledger, size, exchange->send_buffer)) &&
           outstanding_table(exchange->requests)->last != UINT64_MAX;
}

PyObject *
exchange_ledger(const struct exchange *exchange, uint64_t peer)
{
    const struct station *station = stations_find(&exchange->stations, peer);
    const struct route *route = routes_find(&exchange->routes, peer);

    return station != NULL ? station->ledger : route != NULL ? route->ledger : NULL;
}

int
exchange_post(struct exchange *exchange, uint64_t peer, struct sending *sending)
{
    const Py_ssize_t length = sending->payload.len;
    const bool counts = sending->header.code >= FIRST_USER_CODE;
    const uint64_t size = counts ? HEADER_SIZE + (uint64_t)length : 0;
    struct waiting *place = NULL;
    struct envelope envelope;

    flush_lane(exchange, peer);
    if (lock_is_held(exchange->lock)) {
        return 0;
    }
    const struct station *station = stations_find(&exchange->stations, peer);
    if (station == NULL) {
        return exchange_post_by_port(exchange, peer, sending, size);
    }
    if (!may_go(exchange, station, size)) {
        return 0;
    }
    struct lane *lane = lane_of(station->lane);
    if (!lane_fits(lane, length)) {
        if (!PyBytes_CheckExact(sending->payload.obj)) {
            return 0;
        }
        place = lane_place(sending->payload.obj);
        if (place == NULL) {
            return -1;
        }
    }
    if (exchange_stamp(exchange, peer, station->ledger, sending, size, &envelope) < 0) {
        if (place != NULL) {
            lane_drop_place(place);
        }
        return -1;
    }
    if (place == NULL) {
        lane_post(lane, &envelope, &sending->header, &sending->payload);
    } else {
        PyObject *kept = Py_NewRef(station->lane);
        lane_post_behind(lane, place, &envelope, &sending->header);
        Py_DECREF(kept);
    }
    return 1;
}

/* Whether a message of the program's is as it should be, and needs nothing but to be sent. */
static bool
is_plain(const struct exchange *exchange, PyObject *payload, uint64_t code)
{
    return PyBytes_CheckExact(payload) && code >= FIRST_USER_CODE && !exchange->unclocked &&
           HEADER_SIZE + (uint64_t)PyBytes_GET_SIZE(payload) <= exchange->max_message;
}

int
sending_begin_plain(struct exchange *exchange, struct sending *sending, PyObject *const *args,
                    PyObject *seq, uint64_t *peer)
{
    if (as_unsigned(args[0], "peer", UINT32_MAX, peer) < 0 ||
        as_unsigned(args[1], "code", UINT8_MAX, &sending->header.code) < 0) {
        PyErr_Clear(); /* the long way says what is wrong */
        return 0;
    }
    if (!is_plain(exchange, args[2], sending->header.code) ||
        exchange_ledger(exchange, *peer) == NULL) {
        return 0;
    }
    return sending_begin(exchange, sending, args[1], seq, args[2]) < 0 ? -1 : 1;
}

PyObject *
exchange_post_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    struct sending sending = {0};
    uint64_t peer;

    if (require_count("post", nargs, 3) < 0) {
        return NULL;
    }
    PyObject *none = PyLong_FromLong(0);
    int sent = none == NULL ? -1 : sending_begin_plain(exchange, &sending, args, none, &peer);
    Py_XDECREF(none);
    if (sent > 0) {
        sent = exchange_post(exchange, peer, &sending);
        sending_end(&sending);
    }
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}

PyObject *
exchange_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    struct sending sending = {0};
    uint64_t peer;

    if (require_count("send", nargs, 4) < 0 ||
        as_unsigned(args[0], "peer", UINT32_MAX, &peer) < 0 ||
        header_from_arguments(args[1], args[2], &sending.header) < 0) {
        return NULL;
    }
    if (exchange_ledger(exchange, peer) == NULL) {
        Py_RETURN_FALSE;
    }
    if (sending_begin(exchange, &sending, args[1], args[2], args[3]) < 0) {
        return NULL;
    }
    const int sent = exchange_post(exchange, peer, &sending);
    sending_end(&sending);
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}
