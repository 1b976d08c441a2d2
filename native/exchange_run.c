#include "exchange_parts.h"

/* The next message of the batch, borrowed, if it belongs to the run: one way, and of that code. */
static PyObject *
next_of_run(const struct exchange *exchange, long code)
{
    if (exchange->handled >= PyList_GET_SIZE(exchange->batch)) {
        return NULL;
    }
    PyObject *message = PyList_GET_ITEM(exchange->batch, exchange->handled);
    const bool is_same = PyLong_AsLong(PyTuple_GET_ITEM(message, 1)) == code &&
                         !PyObject_IsTrue(PyTuple_GET_ITEM(message, 2));
    return is_same ? message : NULL;
}

/* Moves what goes on with the run from the batch to it. 0, -1 with an exception. */
static int
take_from_batch(struct exchange *exchange, PyObject *run, long code)
{
    PyObject *message;

    while (PyList_GET_SIZE(run) < MOST_AT_ONCE && (message = next_of_run(exchange, code)) != NULL) {
        if (PyList_Append(run, message) < 0) {
            return -1;
        }
        PyList_SET_ITEM(exchange->batch, exchange->handled, Py_NewRef(Py_None));
        Py_DECREF(message); /* the run has it */
        exchange->handled++;
    }
    if (exchange->handled > 0 && exchange->handled == PyList_GET_SIZE(exchange->batch)) {
        exchange->handled = 0;
        return PyList_SetSlice(exchange->batch, 0, PyList_GET_SIZE(exchange->batch), NULL);
    }
    return 0;
}

/* Has the host add what waits in its queue. The message behind the run, which had to be taken to be
 * looked at, is the next of our batch if we serve, and else kept by the host. 0, -1. */
static int
take_from_queue(const struct server *server, PyObject *run)
{
    PyObject *name = PyUnicode_InternFromString("gather");
    PyObject *serves = server->queued == NULL ? Py_False : Py_True;
    PyObject *behind = name == NULL ? NULL
                                    : PyObject_CallMethodObjArgs(server->host, name, run, serves, NULL);
    int result = behind == NULL ? -1 : 0;

    Py_XDECREF(name);
    if (result == 0 && server->queued != NULL && exchange_is_message(server->exchange, behind)) {
        result = PyList_Append(server->exchange->batch, behind);
    }
    Py_XDECREF(behind);
    return result;
}

/* The messages of a run have been taken up. 0, -1. */
static int
consume_all(const struct server *server, PyObject *run)
{
    PyObject *messages[MOST_AT_ONCE];
    Py_ssize_t count = 0;
    int consumed = 0;

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(run); i++) {
        if (i == MOST_AT_ONCE || !exchange_is_message(server->exchange, PyList_GET_ITEM(run, i))) {
            PyErr_SetString(PyExc_TypeError, "gather() adds some messages");
            consumed = -1;
            break;
        }
        messages[count++] = Py_NewRef(PyList_GET_ITEM(run, i)); /* the host is called between them */
    }
    for (Py_ssize_t i = 0; i < count && consumed >= 0; i += consumed) {
        consumed = server_consume(server, messages + i, count - i);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_DECREF(messages[i]);
    }
    return consumed < 0 ? -1 : 0;
}

/* Adds to a run of one message those that came together with it, and takes them up. 0, -1. */
static int
complete(const struct server *server, PyObject *run, long code)
{
    struct exchange *exchange = server->exchange;
    int queued = 1;

    if (server->queued != NULL) {
        if (take_from_batch(exchange, run, code) < 0) {
            return -1;
        }
        queued = exchange->handled < PyList_GET_SIZE(exchange->batch) ? 0 : server_is_queued(server);
    }
    if (queued < 0 || (queued > 0 && !server->shared && take_from_queue(server, run) < 0)) {
        return -1;
    }
    return consume_all(server, run);
}

/* The decoded values of a run. NULL with an exception. */
static PyObject *
decode_all(PyObject *run, PyObject *decode)
{
    PyObject *values = PyList_New(0);

    for (Py_ssize_t i = 0; values != NULL && i < PyList_GET_SIZE(run); i++) {
        PyObject *payload = Py_NewRef(PyTuple_GET_ITEM(PyList_GET_ITEM(run, i), 3));
        PyObject *value = PyObject_CallOneArg(decode, payload);
        Py_DECREF(payload);
        if (value == NULL || PyList_Append(values, value) < 0) {
            Py_CLEAR(values);
        }
        Py_XDECREF(value);
    }
    return values;
}

/* Calls the handler with the whole run; what it returns is nobody's. */
static int
call(const struct server *server, PyObject *run, PyObject *handler)
{
    PyObject *function = PyTuple_GET_ITEM(handler, 0);
    PyObject *decode = PyTuple_GET_ITEM(handler, 1);
    PyObject *values = NULL;

    if (function != Py_None && decode != Py_None) {
        values = decode_all(run, decode);
        if (values == NULL) {
            PyErr_Clear(); /* it happens again there, and is told properly */
        }
    }
    if (function == Py_None || (decode != Py_None && values == NULL)) {
        return server_call_host(server, "run_batch", run, NULL, NULL, NULL);
    }
    PyObject *first = Py_NewRef(PyList_GET_ITEM(run, 0)); /* the list is the handler's now */
    PyObject *result = values == NULL ? PyObject_CallOneArg(function, run)
                                      : PyObject_CallFunctionObjArgs(function, values, run, NULL);
    const int called = result == NULL ? server_tell_failure(server, first) : 0;
    Py_XDECREF(result);
    Py_XDECREF(values);
    Py_DECREF(first);
    return called;
}

/* Drops a run, of which nothing is left but spares if its handler has kept nothing. */
static void
drop_run(struct exchange *exchange, PyObject *run)
{
    if (run != NULL && Py_REFCNT(run) == 1) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(run); i++) {
            PyObject *message = PyList_GET_ITEM(run, i);
            if (exchange_is_message(exchange, message)) {
                PyList_SET_ITEM(run, i, Py_NewRef(Py_None));
                spares_return(&exchange->spares, message);
            }
        }
    }
    Py_XDECREF(run);
}

int
server_take_up_run(const struct server *server, PyObject *message, PyObject *handler)
{
    PyObject *run = PyList_New(0);
    int result = run == NULL ? -1 : PyList_Append(run, message);

    if (result == 0) {
        result = complete(server, run, PyLong_AsLong(PyTuple_GET_ITEM(message, 1)));
    }
    if (result == 0) {
        result = call(server, run, handler);
    }
    drop_run(server->exchange, run);
    return result;
}
