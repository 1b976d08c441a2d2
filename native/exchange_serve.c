#include "exchange_parts.h"

#include "arguments.h"
#include "clock.h"
#include "doorbell.h"
#include "ledger.h"
#include "thread_number.h"

#include <unistd.h>

/* The code of a message that is not to be handled any more: of none that the program sends. */
enum { WITHDRAWN = 0 };

/* What one call of `serve` was given. */
struct server {
    struct exchange *exchange;
    PyObject *host;     /* what is not done here is done by its methods */
    PyObject *replies;  /* where answers go that are not sent from here */
    PyObject *handlers; /* code -> (function, decode or None, encode) */
    PyObject *queued;   /* how many messages wait for a handler elsewhere */
    bool shared;        /* other threads take messages from there too */
    bool main;          /* no round is to be interrupted by signal handlers */
};

/* A message of the program, its fields borrowed. */
struct taken {
    PyObject *message;
    PyObject *src;
    PyObject *code;
    PyObject *seq;
    PyObject *payload;
};

/* ---- calling the host */

static int
call_host(const struct server *server, const char *name, PyObject *one, PyObject *two,
          PyObject *three, PyObject *four)
{
    PyObject *method = PyUnicode_InternFromString(name);
    PyObject *result = method == NULL ? NULL
                                      : PyObject_CallMethodObjArgs(server->host, method, one, two,
                                                                   three, four, NULL);
    Py_XDECREF(method);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The handler has failed, or what it returned is no payload: the exception becomes the answer. */
static int
tell_failure(const struct server *server, const struct taken *taken)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    const int told =
        call_host(server, "failed", server->replies, taken->message, value, NULL);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return told;
}

/* ---- one message */

/* The message has been taken up. */
static int
consume(const struct server *server, const struct taken *taken)
{
    struct exchange *exchange = server->exchange;
    const uint64_t size = HEADER_SIZE + (uint64_t)PyBytes_GET_SIZE(taken->payload);
    const struct station *station =
        stations_find(&exchange->stations, PyLong_AsUnsignedLongLong(taken->src));

    if (station == NULL || !ledger_consume(station->ledger, size, exchange->send_buffer / 4)) {
        return 0;
    }
    return call_host(server, "announce", server->replies, taken->src, NULL, NULL);
}

/* Sends the answer. Takes the payload over. */
static int
answer(const struct server *server, const struct taken *taken, PyObject *payload)
{
    struct exchange *exchange = server->exchange;
    struct sending sending = {.header = {.code = RESP}};
    int sent = 0;

    sending.header.seq = PyLong_AsUnsignedLongLong(taken->seq);
    if (PyBytes_CheckExact(payload) && !exchange->unclocked) {
        PyObject *code = PyLong_FromLong(RESP);
        sent = code == NULL
                   ? -1
                   : sending_begin(exchange, &sending, code, taken->seq, payload);
        Py_XDECREF(code);
        if (sent == 0) {
            sent = exchange_post(exchange, PyLong_AsUnsignedLongLong(taken->src), &sending);
            sending_end(&sending);
        }
    }
    if (sent == 0) {
        sent = call_host(server, "answer", server->replies, taken->src, taken->seq, payload);
    }
    Py_DECREF(payload);
    return sent < 0 ? -1 : 0;
}

/* Calls the function of this handler. What it returned as a payload, NULL with its exception. */
static PyObject *
call_function(const struct taken *taken, PyObject *handler, PyObject *value)
{
    PyObject *function = PyTuple_GET_ITEM(handler, 0);
    PyObject *result = value == NULL
                           ? PyObject_CallOneArg(function, taken->message)
                           : PyObject_CallFunctionObjArgs(function, value, taken->message, NULL);

    if (result == NULL || PyBytes_CheckExact(result)) {
        return result;
    }
    PyObject *payload = PyObject_CallOneArg(PyTuple_GET_ITEM(handler, 2), result);
    Py_DECREF(result);
    return payload;
}

/* Calls a handler, and answers. -1 with an exception that is for whoever called `serve`. */
static int
handle(const struct server *server, const struct taken *taken, PyObject *handler)
{
    PyObject *decode = PyTuple_GET_ITEM(handler, 1);
    PyObject *value = NULL;

    if (decode != Py_None) {
        value = PyObject_CallOneArg(decode, taken->payload);
        if (value == NULL) {
            PyErr_Clear(); /* it happens again there, and is told properly */
            return call_host(server, "run", taken->message, NULL, NULL, NULL);
        }
    }
    PyObject *payload = call_function(taken, handler, value);
    Py_XDECREF(value);
    if (payload == NULL) {
        return tell_failure(server, taken);
    }
    if (PyObject_IsTrue(taken->seq)) {
        return answer(server, taken, payload);
    }
    Py_DECREF(payload);
    return 0;
}

static int
take_up(const struct server *server, const struct taken *taken)
{
    PyObject *handler;

    if (consume(server, taken) < 0) {
        return -1;
    }
    if (PyLong_AsLong(taken->code) == WITHDRAWN) {
        return 0;
    }
    handler = PyDict_GetItemWithError(server->handlers, taken->code);
    if (handler == NULL && PyErr_Occurred()) {
        return -1;
    }
    if (handler == NULL || !PyTuple_CheckExact(handler) || PyTuple_GET_SIZE(handler) != 3) {
        return call_host(server, "run", taken->message, NULL, NULL, NULL);
    }
    Py_INCREF(handler); /* may be replaced meanwhile */
    const int handled = handle(server, taken, handler);
    Py_DECREF(handler);
    return handled;
}

/* ---- the batch */

static bool
has_batch(const struct exchange *exchange)
{
    return exchange->handled < PyList_GET_SIZE(exchange->batch);
}

/* Takes the next message out of the batch. NULL with an exception. */
static PyObject *
next_of_batch(struct exchange *exchange)
{
    PyObject *message = Py_NewRef(PyList_GET_ITEM(exchange->batch, exchange->handled));

    exchange->handled++;
    if (!has_batch(exchange)) {
        exchange->handled = 0;
        if (PyList_SetSlice(exchange->batch, 0, PyList_GET_SIZE(exchange->batch), NULL) < 0) {
            Py_CLEAR(message);
        }
    }
    return message;
}

/* Gives all but the first message to the other threads. */
static int
share_batch(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    PyObject *rest = PyList_GetSlice(exchange->batch, 1, PY_SSIZE_T_MAX);
    int result = rest == NULL ? -1 : 0;

    if (result == 0) {
        result = PyList_SetSlice(exchange->batch, 1, PY_SSIZE_T_MAX, NULL);
    }
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(rest); i++) {
        result = call_host(server, "deliver", PyList_GET_ITEM(rest, i), NULL, NULL, NULL);
    }
    Py_XDECREF(rest);
    return result;
}

/* Handles what has been read, off the seat. 1, 0 if the exchange was closed meanwhile, -1. */
static int
handle_batch(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    struct vigil *vigil = doorbell_vigil(exchange->doorbell);
    int result = 0;

    while (result == 0 && has_batch(exchange) && !exchange->closed) {
        PyObject *message = next_of_batch(exchange);
        if (message == NULL) {
            return -1;
        }
        const struct taken taken = {message, PyTuple_GET_ITEM(message, 0),
                                    PyTuple_GET_ITEM(message, 1), PyTuple_GET_ITEM(message, 2),
                                    PyTuple_GET_ITEM(message, 3)};
        exchange->inside++;
        if (!server->shared) {
            vigil_leave(vigil);
        }
        result = take_up(server, &taken);
        if (!server->shared) {
            vigil_return(vigil);
        }
        exchange->inside--;
        Py_DECREF(message);
    }
    return result < 0 ? -1 : !exchange->closed;
}

/* ---- reading; on the seat */

/* Has Python look at what was found for it. In the round, which signal handlers must not end. */
static int
finish_round(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    const bool any = exchange->some_left || exchange->unclocked ||
                     PyList_GET_SIZE(exchange->news) + PyList_GET_SIZE(exchange->lines) > 0;

    if (server->main) {
        exchange_leave_rest(exchange);
        return 0;
    }
    return any ? call_host(server, "finish_round", NULL, NULL, NULL, NULL) : 0;
}

/* Reads once what was rung, if the queue is empty: what is there goes first. 1, 0 if it is not, -1
 * with an exception. In the round. */
static int
read_in_round(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    const struct found found = {exchange->batch, server->main ? NULL : exchange->lines};

    PyObject *queued = PyObject_CallNoArgs(server->queued);
    const int queue = queued == NULL ? -1 : PyObject_IsTrue(queued);
    Py_XDECREF(queued);
    if (queue != 0) {
        return queue < 0 ? -1 : 0;
    }
    const int read = exchange_read_rung(exchange, &found);
    bell_rest(doorbell_bell(exchange->doorbell));
    return read < 0 || (read > 0 && finish_round(server) < 0) ? -1 : 1;
}

/* The same, in a round of its own. 0 as well if somebody else reads, and we cannot wait for that. */
static int
read_batch(const struct server *server)
{
    struct exchange *exchange = server->exchange;

    const int taken = server->main ? python_lock_try(&exchange->rounds)
                                   : python_lock_acquire(&exchange->rounds);
    if (taken <= 0) {
        return taken;
    }
    const int read = read_in_round(server);
    python_lock_release(&exchange->rounds);
    if (read > 0 && server->shared && PyList_GET_SIZE(exchange->batch) > 1) {
        return share_batch(server) < 0 ? -1 : 1;
    }
    return read;
}

/* Sleeps and reads until there is something to handle. 1; 0 when the caller is to wait elsewhere, -1
 * with an exception. The seat is left; the handlers that now come are under vigil, unless other
 * threads are there, who may sit meanwhile. */
static int
wait_for_batch(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    int64_t pause = 0;
    int state = exchange_sit(exchange);

    if (state <= 0) {
        return state;
    }
    for (unsigned turn = 1;; turn++) {
        state = exchange->halted || exchange->closed || exchange->wanted ? 0 : read_batch(server);
        if (state <= 0 || has_batch(exchange)) {
            break;
        }
        state = exchange_sleep(exchange, INT64_MAX, &pause, turn);
        if (state <= 0) {
            return state; /* the seat is lost already */
        }
    }
    exchange->wanted = 0;
    if (state > 0 && !server->shared) {
        exchange->waiting = 0;
        python_lock_release(&exchange->seat); /* but awake */
    } else {
        exchange_stand(exchange);
    }
    return state;
}

/* Nobody is awake on our behalf any more. In a forked child the bell is the parent's. */
static void
go(const struct exchange *exchange)
{
    if (!exchange->closed && bell_stand(doorbell_bell(exchange->doorbell))) {
        doorbell_nudge(exchange->doorbell, BELL_PORTER);
    }
}

PyObject *
exchange_serve(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (require_count("serve", nargs, 5) < 0) {
        return NULL;
    }
    if (!PyDict_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "serve() takes a dict of handlers");
        return NULL;
    }
    const struct server server = {exchange_of(self),        args[0],
                                  args[1],                  args[2],
                                  args[3],                  args[4] == Py_True,
                                  thread_number() == (uint32_t)getpid()};
    int state = 1;
    Py_INCREF(self); /* closed by a handler, perhaps for good */
    while (state > 0) {
        state = handle_batch(&server);
        if (state > 0) {
            state = wait_for_batch(&server);
        }
    }
    go(server.exchange);
    Py_DECREF(self);
    return state < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
exchange_withdraw(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    uint64_t src;
    uint64_t seq;

    if (require_count("withdraw", nargs, 2) < 0 ||
        as_unsigned(args[0], "src", UINT32_MAX, &src) < 0 ||
        as_unsigned(args[1], "seq", UINT64_MAX, &seq) < 0) {
        return NULL;
    }
    for (Py_ssize_t i = exchange->handled; i < PyList_GET_SIZE(exchange->batch); i++) {
        PyObject *message = PyList_GET_ITEM(exchange->batch, i);
        if (PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(message, 0)) != src ||
            PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(message, 2)) != seq) {
            continue;
        }
        PyObject *const fields[FIELDS] = {Py_NewRef(args[0]), PyLong_FromLong(WITHDRAWN),
                                          PyLong_FromLong(0),
                                          Py_NewRef(PyTuple_GET_ITEM(message, 3))};
        PyObject *nothing = exchange_tuple(exchange->message, fields);
        return nothing == NULL || PyList_SetItem(exchange->batch, i, nothing) < 0
                   ? NULL
                   : Py_NewRef(Py_True);
    }
    Py_RETURN_FALSE;
}
