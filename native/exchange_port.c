#include "exchange_parts.h"

#include "arguments.h"
#include "calls.h"
#include "clock.h"
#include "ledger.h"
#include "zeromq.h"

/* Messages taken in by one call. */
enum { MOST_TAKEN = 256 };

/* ---- who has a connection; under the session's lock */

/* Drops a route, if it is one. */
static void
forget_route(struct exchange *exchange, struct route *route)
{
    PyObject *dropped[ROUTE_REFERENCES];

    if (route != NULL) {
        routes_remove(&exchange->routes, route, dropped);
        for (int i = 0; i < ROUTE_REFERENCES; i++) {
            Py_DECREF(dropped[i]);
        }
    }
}

void
exchange_drop_routes(struct exchange *exchange)
{
    struct route *route;

    while ((route = routes_any(&exchange->routes)) != NULL) {
        forget_route(exchange, route);
    }
}

int
exchange_visit_routes(const struct exchange *exchange, visitproc visit, void *arg)
{
    for (size_t slot = 0; slot < routes_slots(&exchange->routes); slot++) {
        const struct route *route = routes_at(&exchange->routes, slot);
        if (route != NULL) {
            Py_VISIT(route->port);
            Py_VISIT(route->ledger);
        }
    }
    return 0;
}

PyObject *
exchange_reach(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    const struct native_state *state = PyType_GetModuleState(Py_TYPE(self));
    uint64_t peer;

    if (require_count("reach", nargs, 4) < 0 ||
        as_unsigned(args[0], "peer", UINT32_MAX, &peer) < 0) {
        return NULL;
    }
    if (!port_is_open(args[1]) || !PyBytes_CheckExact(args[2]) ||
        !PyObject_TypeCheck(args[3], (PyTypeObject *)state->ledger)) {
        PyErr_SetString(PyExc_TypeError, "reach() takes an open Port, a route and a Ledger");
        return NULL;
    }
    if (exchange->closed) {
        Py_RETURN_NONE;
    }
    forget_route(exchange, routes_find(&exchange->routes, peer));
    if (routes_add(&exchange->routes, peer, args[1], args[2], args[3]) == NULL) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
exchange_unreach(PyObject *self, PyObject *argument)
{
    struct exchange *exchange = exchange_of(self);
    uint64_t peer;

    if (as_unsigned(argument, "peer", UINT32_MAX, &peer) < 0) {
        return NULL;
    }
    forget_route(exchange, routes_find(&exchange->routes, peer));
    Py_RETURN_NONE;
}

/* ---- out */

int
exchange_post_by_port(struct exchange *exchange, uint64_t peer, struct sending *sending,
                      uint64_t size)
{
    const struct route *route = routes_find(&exchange->routes, peer);
    struct envelope envelope;

    if (route == NULL || !port_is_open(route->port) || sending->payload.len >= PORT_SMALL ||
        (size > 0 && !ledger_has_room(route->ledger, size, exchange->send_buffer)) ||
        outstanding_table(exchange->requests)->last == UINT64_MAX) {
        return 0;
    }
    if (exchange_stamp(exchange, peer, route->ledger, sending, size, &envelope) < 0) {
        return -1;
    }
    sending->header.size = HEADER_SIZE + (uint64_t)sending->payload.len;
    /* What cannot go is the link's to send again: the connection has just ended, and we shall hear. */
    (void)port_post(route->port, route->name, &envelope, &sending->header, &sending->payload);
    return 1;
}

/* ---- in; in a round */

/* The peer whose words come by this connection, 0 while nobody is to be heard. -1 with an exception. */
static int
peer_of(PyObject *connection, uint64_t *peer)
{
    PyObject *name = PyUnicode_InternFromString("heard"); /* found by identity in caches of types */
    PyObject *heard = name == NULL ? NULL : PyObject_GetAttr(connection, name);
    const int result = heard == NULL ? -1 : as_unsigned(heard, "heard", UINT32_MAX, peer);

    Py_XDECREF(name);
    Py_XDECREF(heard);
    return result;
}

/* Deals with a message if that can be done here. 1, 2 if it is for Python, -1 with an exception. */
static int
deal_with(struct exchange *exchange, PyObject *port, struct arrival *arrival,
          const struct envelope *envelope, const struct header *header, PyObject *messages)
{
    const unsigned char *payload = port_plain_payload(port, arrival, header);
    uint64_t peer;

    if (payload == NULL || header->size > exchange->max_message) {
        return 2;
    }
    if (peer_of(arrival->connection, &peer) < 0) {
        return -1;
    }
    const struct route *route = routes_find(&exchange->routes, peer);
    if (route == NULL || !exchange_is_ours(exchange, peer, route->ledger, envelope, header, true)) {
        return 2;
    }
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)payload,
                                                (Py_ssize_t)(header->size - HEADER_SIZE));
    if (bytes == NULL) {
        return -1;
    }
    const int entered =
        exchange_enter(exchange, peer, route->ledger, envelope, header, bytes, messages);
    if (entered < 0) {
        Py_DECREF(bytes); /* nothing was counted: it is sent again */
    }
    return entered;
}

/* What is given in the place of a message for which there is no memory, if it asks or answers. NULL if
 * that is not so, and the exception stays. */
static PyObject *
without_payload(const struct exchange *exchange, const struct arrival *arrival,
                const struct envelope *envelope, const struct header *header)
{
    if (!PyErr_ExceptionMatches(PyExc_MemoryError) || header->seq == 0 ||
        header->size < HEADER_SIZE || header->size > exchange->max_message) {
        return NULL;
    }
    PyErr_Clear();
    return Py_BuildValue("O(KKiKK)", arrival->connection, (unsigned long long)envelope->number,
                         (unsigned long long)envelope->acked, (int)header->code,
                         (unsigned long long)header->seq,
                         (unsigned long long)header->size - HEADER_SIZE);
}

/* Takes one message in. 0 if there is none, 1 if it is done with, 2 if it is in `arrived`, -1. */
static int
take_one(struct exchange *exchange, PyObject *port, PyObject *known, PyObject *messages,
         PyObject **arrived)
{
    struct arrival arrival;
    struct envelope envelope;
    struct header header;
    int result = port_take(port, known, &arrival);

    if (result <= 0) {
        return result;
    }
    const bool begins = port_has_head(port, &arrival, &envelope, &header);
    result = begins ? deal_with(exchange, port, &arrival, &envelope, &header, messages) : 2;
    if (result == 2) {
        *arrived = port_give(port, &arrival);
        result = *arrived == NULL ? -1 : 2;
    }
    if (result < 0 && begins) {
        *arrived = without_payload(exchange, &arrival, &envelope, &header);
        result = *arrived == NULL ? -1 : 2;
    }
    port_end(port, &arrival);
    return result;
}

PyObject *
exchange_take_in(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    PyObject *arrived = NULL;
    int state = 1;

    if (require_count("take_in", nargs, 2) < 0) {
        return NULL;
    }
    if (!port_is_open(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take_in() takes an open Port and a dict");
        return NULL;
    }
    PyObject *messages = PyList_New(0);
    if (messages == NULL) {
        return NULL;
    }
    for (int i = 0; state == 1 && i < MOST_TAKEN; i++) {
        state = take_one(exchange, args[0], args[1], messages, &arrived);
    }
    if (state < 0 && PyList_GET_SIZE(messages) > 0) {
        /* They have been counted: they must not be lost. What is wrong now shows again. */
        PyErr_WriteUnraisable(self);
        state = 1;
    }
    PyObject *news = state < 0 ? NULL : exchange_take_list(&exchange->news);
    PyObject *result = NULL;
    if (news != NULL) {
        PyObject *third = state == 0 ? Py_None : state == 1 ? Py_True : arrived;
        result = PyTuple_Pack(3, messages, news, third);
    }
    Py_XDECREF(news);
    Py_XDECREF(arrived);
    Py_DECREF(messages);
    return result;
}

/* ---- handling a message that waited in a queue */

PyObject *
exchange_handle(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);

    if (require_count("handle", nargs, 4) < 0) {
        return NULL;
    }
    if (!PyDict_CheckExact(args[2]) || !exchange_is_message(exchange, args[3])) {
        PyErr_SetString(PyExc_TypeError, "handle() takes a dict of handlers and a message");
        return NULL;
    }
    const struct server server = {.exchange = exchange,
                                  .host = args[0],
                                  .replies = args[1],
                                  .handlers = args[2]};
    return server_take_up(&server, args[3]) < 0 ? NULL : Py_NewRef(Py_None);
}
