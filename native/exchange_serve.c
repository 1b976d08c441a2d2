#include "exchange_parts.h"

#include "arguments.h"
#include "clock.h"
#include "doorbell.h"
#include "thread_number.h"

/* ---- the batch */

static bool
has_batch(const struct exchange *exchange)
{
    return exchange->handled < PyList_GET_SIZE(exchange->batch);
}

/* Takes the next message out of the batch: nobody else has it then. NULL with an exception. */
static PyObject *
next_of_batch(struct exchange *exchange)
{
    PyObject *message = PyList_GET_ITEM(exchange->batch, exchange->handled);

    PyList_SET_ITEM(exchange->batch, exchange->handled, Py_NewRef(Py_None));
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
        result = server_call_host(server, "deliver", PyList_GET_ITEM(rest, i), NULL, NULL, NULL);
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
        exchange->inside++;
        if (!server->shared) {
            vigil_leave(vigil);
        }
        result = server_take_up(server, message);
        if (!server->shared) {
            vigil_return(vigil);
        }
        exchange->inside--;
        spares_return(&exchange->spares, message);
    }
    return result < 0 ? -1 : !exchange->closed;
}

int
server_is_queued(const struct server *server)
{
    PyObject *queued = PyObject_CallNoArgs(server->queued);
    const int any = queued == NULL ? -1 : PyObject_IsTrue(queued);

    Py_XDECREF(queued);
    return any;
}

/* Takes a message of the queue for the batch. 1; 0 if the caller is to look what is there, -1 with an
 * exception. While there are some we count as awake, or the porter would go on to add to them. */
static int
take_queued(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    PyObject *name = PyUnicode_InternFromString("take");
    PyObject *message = name == NULL ? NULL : PyObject_CallMethodNoArgs(server->host, name);
    int taken = message == NULL ? -1 : 0;

    Py_XDECREF(name);
    if (message != NULL && exchange_is_message(exchange, message)) {
        taken = PyList_Append(exchange->batch, message) < 0 ? -1 : 1;
    }
    Py_XDECREF(message);
    if (taken > 0 && !server->shared) {
        bell_sit(doorbell_bell(exchange->doorbell));
    }
    return taken;
}

/* ---- reading; on the seat */

/* Whether the clock is to hear that something has come. */
static bool
is_for_clock(const struct exchange *exchange)
{
    return exchange->unclocked && (double)recent_ns() / NS_PER_S >= exchange->tick_at;
}

/* Has Python look at what was found for it. In the round, which signal handlers must not end. */
static int
finish_round(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    const bool any = exchange->some_left || is_for_clock(exchange) ||
                     PyList_GET_SIZE(exchange->news) + PyList_GET_SIZE(exchange->lines) > 0;

    if (server->main) {
        exchange_leave_rest(exchange);
        return 0;
    }
    return any ? server_call_host(server, "finish_round", NULL, NULL, NULL, NULL) : 0;
}

/* Reads once what was rung, if the queue is empty: what is there goes first. 1, 2 if it is not, -1
 * with an exception. In the round. */
static int
read_in_round(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    const struct found found = {exchange->batch, server->main ? NULL : exchange->lines};

    const int queued = server_is_queued(server);
    if (queued != 0) {
        return queued < 0 ? -1 : 2;
    }
    if (!bell_is_rung(doorbell_bell(exchange->doorbell))) {
        return 1; /* as before most sleeps: to look costs less than to take nothing */
    }
    const int read = exchange_read_rung(exchange, &found);
    bell_rest(doorbell_bell(exchange->doorbell));
    return read < 0 || (read > 0 && finish_round(server) < 0) ? -1 : 1;
}

/* The same, in a round of its own. 0 if somebody else reads, and we cannot wait for that. */
static int
read_batch(const struct server *server)
{
    struct exchange *exchange = server->exchange;

    if (server->main) {
        if (!lock_try(exchange->rounds)) {
            return 0;
        }
    } else if (lock_acquire(exchange->rounds, INT64_MAX) < 0) {
        return -1;
    }
    const int read = read_in_round(server);
    lock_release(exchange->rounds);
    if (read == 1 && server->shared && PyList_GET_SIZE(exchange->batch) > 1) {
        return share_batch(server) < 0 ? -1 : 1;
    }
    return read;
}

/* Sleeps and reads until there is something to handle. 1, or 2 if it is in the queue; 0 when the
 * caller is to wait elsewhere, -1 with an exception. The seat is left; the handlers that now come
 * are under vigil, unless other threads are there, who may sit meanwhile. */
static int
wait_for_batch(const struct server *server)
{
    struct exchange *exchange = server->exchange;
    int64_t pause = 0;
    int state = 0;

    if (!exchange_sit(exchange)) {
        return 0;
    }
    for (unsigned turn = 1;; turn++) {
        state = exchange->halted || exchange->closed || exchange->wanted ? 0 : read_batch(server);
        if (state != 1 || has_batch(exchange)) {
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
        lock_release(exchange->seat); /* but awake */
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
                                  thread_is_main()};
    int state = 1;
    Py_INCREF(self); /* closed by a handler, perhaps for good */
    while (state > 0) {
        state = handle_batch(&server);
        if (state > 0) {
            state = wait_for_batch(&server);
        }
        if (state == 2) {
            state = take_queued(&server);
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
        PyObject *nothing = tuple_make(exchange->message, fields);
        return nothing == NULL || PyList_SetItem(exchange->batch, i, nothing) < 0
                   ? NULL
                   : Py_NewRef(Py_True);
    }
    Py_RETURN_FALSE;
}
