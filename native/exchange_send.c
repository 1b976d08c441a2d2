#include "exchange_parts.h"

#include "arguments.h"
#include "calls.h"
#include "lane.h"
#include "ledger.h"
#include "ticket.h"

int
sending_begin(struct sending *sending, PyObject *payload)
{
    return PyObject_GetBuffer(payload, &sending->payload, PyBUF_SIMPLE);
}

void
sending_end(struct sending *sending)
{
    Py_XDECREF(sending->entry);
    PyBuffer_Release(&sending->payload);
}

/* The station of this peer, if there is one, with room for a payload of so many bytes if that can be. What
 * waits for room there is sent first: the bell that tells of some may have been heard by a thread that has
 * not come to run. */
static struct station *
ready_station(struct exchange *exchange, uint64_t peer, Py_ssize_t length)
{
    struct station *station = stations_find(&exchange->stations, peer);

    if (station == NULL) {
        return NULL;
    }
    if (lane_waits(lane_of(station->lane))) {
        PyObject *lane = Py_NewRef(station->lane); /* dropping what was sent may run Python code */
        lane_flush(lane_of(lane), UINT64_MAX);
        Py_DECREF(lane);
    } else if (lane_is_crowded(lane_of(station->lane), length) && !lock_is_held(exchange->lock)) {
        lane_await_reader(station->lane);
    } else {
        return station;
    }
    return stations_find(&exchange->stations, peer);
}

int
exchange_stamp(struct exchange *exchange, uint64_t peer, PyObject *ledger,
               struct sending *sending, uint64_t size, struct envelope *envelope)
{
    struct requests *table = outstanding_table(exchange->requests);
    struct kept_message message = {.body = sending->payload.obj, .code = (uint32_t)sending->header.code};

    if (sending->entry != NULL) {
        if (requests_add(table, peer, sending->entry) < 0) {
            return -1;
        }
        sending->header.seq = table->last;
    }
    message.seq = sending->header.seq;
    if (ledger_stamp(ledger, exchange->outgoing, &message, size, LEDGER_RECENTLY,
                     &envelope->number) < 0) {
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

    const struct station *station = ready_station(exchange, peer, length);
    if (lock_is_held(exchange->lock)) {
        return 0;
    }
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
        lane_put(lane, &envelope, &sending->header, &sending->payload);
        if (!sending->quietly) {
            lane_publish(lane);
        }
    } else {
        PyObject *kept = Py_NewRef(station->lane);
        lane_post_behind(lane, place, &envelope, &sending->header);
        Py_DECREF(kept);
    }
    return 1;
}

bool
exchange_is_plain(const struct exchange *exchange, PyObject *payload, uint64_t code)
{
    return PyBytes_CheckExact(payload) && code >= FIRST_USER_CODE && !exchange->unclocked &&
           HEADER_SIZE + (uint64_t)PyBytes_GET_SIZE(payload) <= exchange->max_message;
}

int
sending_begin_plain(const struct exchange *exchange, struct sending *sending,
                    PyObject *const *args, uint64_t *peer)
{
    if (as_unsigned(args[0], "peer", UINT32_MAX, peer) < 0 ||
        as_unsigned(args[1], "code", UINT8_MAX, &sending->header.code) < 0) {
        PyErr_Clear(); /* the long way says what is wrong */
        return 0;
    }
    if (!exchange_is_plain(exchange, args[2], sending->header.code)) {
        return 0;
    }
    return sending_begin(sending, args[2]) < 0 ? -1 : 1;
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
    int sent = sending_begin_plain(exchange, &sending, args, &peer);
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
    if (sending_begin(&sending, args[3]) < 0) {
        return NULL;
    }
    const int sent = exchange_post(exchange, peer, &sending);
    sending_end(&sending);
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}
