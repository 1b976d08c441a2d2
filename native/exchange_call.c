#include "exchange_parts.h"

#include "arguments.h"
#include "clock.h"
#include "ticket.h"

/* Posts a request and waits for its answer, on the seat if that is free. 1 when the ticket is settled, 0
 * when it is too late, 2 if the request was not posted, -1 with an exception. */
static int
post_and_wait(struct exchange *exchange, uint64_t peer, struct sending *sending, PyObject *ticket,
              int64_t deadline)
{
    const bool by_lane = stations_find(&exchange->stations, peer) != NULL;
    if (by_lane) {
        relay_enter(exchange);
    }
    const bool seated = by_lane && exchange_sit(exchange);
    const int posted = exchange_post(exchange, peer, sending);
    if (seated && posted <= 0) {
        exchange_stand(exchange);
    }
    if (posted <= 0) {
        return posted < 0 ? -1 : 2;
    }
    if (!by_lane) {
        return ticket_await(ticket, deadline);
    }
    exchange->wanted = !seated;
    return relay_wait(exchange, ticket, deadline, seated);
}

/* The same, with what is kept of the request in `sending`; ended here. */
static int
call_and_wait(struct exchange *exchange, uint64_t peer, struct sending *sending, PyObject *code,
              PyObject *ticket, int64_t deadline)
{
    int result = -1;

    sending->entry = PyTuple_Pack(2, code, ticket);
    if (sending->entry != NULL) {
        result = post_and_wait(exchange, peer, sending, ticket, deadline);
    }
    sending_end(sending);
    return result;
}

PyObject *
exchange_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    struct sending sending = {0};
    uint64_t peer;
    int64_t deadline;

    if (require_count("call", nargs, 5) < 0 ||
        as_unsigned(args[0], "peer", UINT32_MAX, &peer) < 0 ||
        as_unsigned(args[1], "code", UINT8_MAX, &sending.header.code) < 0 ||
        as_deadline(args[4], &deadline) < 0 || ticket_require(args[3]) < 0) {
        return NULL;
    }
    if (exchange_ledger(exchange, peer) == NULL) {
        Py_RETURN_NONE;
    }
    if (sending_begin(&sending, args[2]) < 0) {
        return NULL;
    }
    const int result = call_and_wait(exchange, peer, &sending, args[1], args[3], deadline);
    if (result < 0) {
        return NULL;
    }
    return result == 2 ? Py_NewRef(Py_None) : PyBool_FromLong(result);
}

/* Takes a request back that nobody waits for any more. Keeps the exception that there is, if any. */
static int
take_back(const struct exchange *exchange, uint64_t seq)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyObject *number = PyLong_FromUnsignedLongLong(seq);
    PyObject *done = number == NULL ? NULL : PyObject_CallOneArg(exchange->withdraw, number);
    Py_XDECREF(number);
    Py_XDECREF(done);
    if (type != NULL) {
        PyErr_Restore(type, value, traceback);
    }
    return done == NULL || type != NULL ? -1 : 0;
}

PyObject *
exchange_ask(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    const struct native_state *state = PyType_GetModuleState(Py_TYPE(self));
    struct sending sending = {0};
    uint64_t peer;
    int64_t deadline = INT64_MAX;
    double seconds;

    if (require_count("ask", nargs, 4) < 0 ||
        (args[3] != Py_None && as_seconds(args[3], &seconds) < 0)) {
        return NULL;
    }
    if (args[3] != Py_None) {
        deadline = after_seconds(seconds);
    }
    const int begun = sending_begin_plain(exchange, &sending, args, &peer);
    if (begun <= 0) {
        return begun < 0 ? NULL : Py_NewRef(Py_None);
    }
    PyObject *ticket = ticket_make(state->ticket);
    if (ticket == NULL) {
        sending_end(&sending);
        return NULL;
    }
    PyObject *answer = NULL;
    int result = call_and_wait(exchange, peer, &sending, args[1], ticket, deadline);
    if (result <= 0 && ticket_number(ticket) != 0 && !ticket_is_settled(ticket) &&
        take_back(exchange, ticket_number(ticket)) < 0) {
        result = -1;
    }
    if (result >= 0) {
        answer = result == 1   ? ticket_outcome(ticket)
                 : result == 2 ? Py_NewRef(Py_None)
                               : Py_NewRef(Py_False);
    }
    Py_DECREF(ticket);
    return answer;
}
