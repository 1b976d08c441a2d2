#include "exchange_parts.h"

#include "arguments.h"
#include "clock.h"
#include "doorbell.h"
#include "ticket.h"

/* Reads in one turn at the bell. */
enum { READS = 8 };

/* Reads answers alone, until ours is there; what else was rung is left for the porter. 1, 0 if somebody
 * else is reading, -1 with an exception. Waits for nobody: signal handlers would run meanwhile, on the
 * seat. */
static int
read_answers(struct exchange *exchange, PyObject *ticket)
{
    const struct found found = {NULL, NULL};
    int read = 1;

    if (!lock_try(exchange->rounds)) {
        return 0;
    }
    for (int i = 0; read > 0 && i < READS && !ticket_is_settled(ticket); i++) {
        read = exchange_read_rung(exchange, &found);
    }
    if (read != 0) {
        bell_rest(doorbell_bell(exchange->doorbell));
    }
    lock_release(exchange->rounds);
    exchange_leave_rest(exchange);
    return read < 0 ? -1 : 1;
}

/* Sleeps on the seat until the ticket is settled, or it is too late, or somebody else reads what
 * comes; then the seat is left. 0, or -1 with an exception. */
static int
wait_seated(struct exchange *exchange, PyObject *ticket, int64_t deadline)
{
    int64_t pause = 0;

    for (unsigned turn = 1; !ticket_is_settled(ticket) && !exchange->halted; turn++) {
        int state = exchange_sleep(exchange, deadline, &pause, turn);
        if (state <= 0) {
            return state; /* the seat is lost already */
        }
        if (state == 1) {
            state = read_answers(exchange, ticket);
        }
        if (state <= 0) {
            exchange_stand(exchange);
            return state;
        }
        if (deadline != INT64_MAX && now_ns() >= deadline) {
            break;
        }
    }
    exchange_stand(exchange);
    return 0;
}

/* Posts a request and waits for its answer, on the seat if that is free. 1 when the ticket is settled, 0
 * when it is too late, 2 if the request was not posted, -1 with an exception. */
static int
post_and_wait(struct exchange *exchange, uint64_t peer, struct sending *sending, PyObject *ticket,
              int64_t deadline)
{
    const bool by_lane = stations_find(&exchange->stations, peer) != NULL;
    const bool seated = by_lane && exchange_sit(exchange);
    const int posted = exchange_post(exchange, peer, sending);
    if (seated && posted <= 0) {
        exchange_stand(exchange);
    }
    if (posted <= 0) {
        return posted < 0 ? -1 : 2;
    }
    if (by_lane) {
        exchange->wanted = !seated;
    }
    if (seated && wait_seated(exchange, ticket, deadline) < 0) {
        return -1;
    }
    return ticket_await(ticket, deadline);
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

static int
require_ticket(PyObject *object)
{
    if (ticket_check(object)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "expected a Ticket, not %.100s", Py_TYPE(object)->tp_name);
    return -1;
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
        as_deadline(args[4], &deadline) < 0 || require_ticket(args[3]) < 0) {
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
