#include "exchange_parts.h"

#include "arguments.h"
#include "calls.h"
#include "clock.h"
#include "lane.h"
#include "ledger.h"
#include "python_lock.h"

PyObject *
exchange_tuple(PyObject *type, PyObject *const fields[FIELDS])
{
    bool whole = true;
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        whole = whole && fields[i] != NULL;
    }
    PyObject *made =
        whole ? ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, FIELDS) : NULL;
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        if (made != NULL) {
            PyTuple_SET_ITEM(made, i, fields[i]);
        } else {
            Py_XDECREF(fields[i]);
        }
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

int
exchange_post(struct exchange *exchange, uint64_t peer, struct sending *sending)
{
    const Py_ssize_t length = sending->payload.len;
    const bool counts = sending->header.code >= FIRST_USER_CODE;
    const uint64_t size = counts ? HEADER_SIZE + (uint64_t)length : 0;
    struct requests *table = outstanding_table(exchange->requests);
    struct envelope envelope;

    const int locked = python_lock_is_held(&exchange->lock);
    if (locked != 0) {
        return locked < 0 ? -1 : 0;
    }
    struct station *station = stations_find(&exchange->stations, peer);
    if (station == NULL || !station->writes || !lane_fits(lane_of(station->lane), length) ||
        (counts && !ledger_has_room(station->ledger, size, exchange->send_buffer)) ||
        table->last == UINT64_MAX) {
        return 0;
    }
    if (sending->entry != NULL && number_request(table, peer, sending) < 0) {
        return -1;
    }
    const double now = (double)now_ns() / NS_PER_S;
    if (ledger_stamp(station->ledger, sending->outgoing, size, now, &envelope.number) < 0) {
        if (sending->entry != NULL) {
            Py_DECREF(requests_remove(table, requests_find(table, sending->header.seq)));
        }
        return -1;
    }
    envelope.acked = ledger_acknowledge(station->ledger);
    lane_post(lane_of(station->lane), &envelope, &sending->header, &sending->payload);
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
        stations_find(&exchange->stations, *peer) == NULL) {
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
    if (stations_find(&exchange->stations, peer) == NULL) {
        Py_RETURN_FALSE;
    }
    if (sending_begin(exchange, &sending, args[1], args[2], args[3]) < 0) {
        return NULL;
    }
    const int sent = exchange_post(exchange, peer, &sending);
    sending_end(&sending);
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}
