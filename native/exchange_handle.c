#include "exchange_parts.h"

#include "ledger.h"

/* A message of the program, its fields borrowed. */
struct taken {
    PyObject *message;
    PyObject *src;
    PyObject *code;
    PyObject *seq;
    PyObject *payload;
    bool asked; /* a request: there is to be an answer */
};

/* ---- calling the host */

int
server_call_host(const struct server *server, const char *name, PyObject *one, PyObject *two,
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

int
server_tell_failure(const struct server *server, PyObject *message)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    const int told =
        server_call_host(server, "failed", server->replies, message, value, NULL);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return told;
}

/* ---- one message */

int
server_consume(const struct server *server, PyObject *const *messages, Py_ssize_t count)
{
    struct exchange *exchange = server->exchange;
    PyObject *src = PyTuple_GET_ITEM(messages[0], 0);
    PyObject *ledger = exchange_ledger(exchange, PyLong_AsUnsignedLongLong(src));
    uint64_t size = 0;

    if (ledger == NULL) { /* we do not speak to it from here */
        PyObject *payload = PyTuple_GET_ITEM(messages[0], 3);
        return server_call_host(server, "consumed", server->replies, src, payload, NULL) < 0 ? -1 : 1;
    }
    Py_ssize_t taken = 0;
    while (taken < count && PyTuple_GET_ITEM(messages[taken], 0) == src) {
        size += HEADER_SIZE + (uint64_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM(messages[taken], 3));
        taken++;
    }
    if (ledger_consume(ledger, size, exchange->send_buffer / 4) &&
        server_call_host(server, "announce", server->replies, src, NULL, NULL) < 0) {
        return -1;
    }
    return (int)taken;
}

/* Sends the answer. Takes the payload over. */
static int
answer(const struct server *server, const struct taken *taken, PyObject *payload)
{
    struct exchange *exchange = server->exchange;
    struct sending sending = {.header = {.code = RESP}};
    int sent = 0;

    sending.header.seq = PyLong_AsUnsignedLongLong(taken->seq);
    if (PyBytes_CheckExact(payload) && !exchange->unclocked &&
        HEADER_SIZE + (uint64_t)PyBytes_GET_SIZE(payload) <= exchange->max_message) {
        sent = sending_begin(&sending, payload);
        if (sent == 0) {
            sent = exchange_post(exchange, PyLong_AsUnsignedLongLong(taken->src), &sending);
            sending_end(&sending);
        }
    }
    if (sent == 0) {
        sent = server_call_host(server, "answer", server->replies, taken->src, taken->seq, payload);
    }
    Py_DECREF(payload);
    return sent < 0 ? -1 : 0;
}

/* Calls the function of this handler. What it returned, of a request as a payload, NULL with its
 * exception. */
static PyObject *
call_function(const struct taken *taken, PyObject *handler, PyObject *value)
{
    PyObject *function = PyTuple_GET_ITEM(handler, 0);
    PyObject *result = value == NULL
                           ? PyObject_CallOneArg(function, taken->message)
                           : PyObject_CallFunctionObjArgs(function, value, taken->message, NULL);

    if (result == NULL || PyBytes_CheckExact(result) || !taken->asked) {
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
            return server_call_host(server, "run", taken->message, NULL, NULL, NULL);
        }
    }
    PyObject *payload = call_function(taken, handler, value);
    Py_XDECREF(value);
    if (payload == NULL) {
        return server_tell_failure(server, taken->message);
    }
    if (!taken->asked) {
        Py_DECREF(payload);
        return 0;
    }
    return answer(server, taken, payload) < 0 ? server_tell_failure(server, taken->message) : 0;
}

static int
take_up(const struct server *server, PyObject *message)
{
    const struct taken all = {message, PyTuple_GET_ITEM(message, 0), PyTuple_GET_ITEM(message, 1),
                              PyTuple_GET_ITEM(message, 2), PyTuple_GET_ITEM(message, 3),
                              PyObject_IsTrue(PyTuple_GET_ITEM(message, 2)) != 0};
    const struct taken *taken = &all;
    PyObject *handler = NULL;

    if (PyLong_AsLong(taken->code) != WITHDRAWN) {
        handler = PyDict_GetItemWithError(server->handlers, taken->code);
        if (handler == NULL && PyErr_Occurred()) {
            return -1;
        }
    }
    Py_XINCREF(handler); /* may be replaced meanwhile */
    const bool is_tuple = handler != NULL && PyTuple_CheckExact(handler);
    int handled = 0;
    if (is_tuple && PyTuple_GET_SIZE(handler) == 2 && !taken->asked) {
        handled = server_take_up_run(server, message, handler);
    } else if (server_consume(server, &message, 1) < 0) {
        handled = -1;
    } else if (is_tuple && PyTuple_GET_SIZE(handler) == 3) {
        handled = handle(server, taken, handler);
    } else if (PyLong_AsLong(taken->code) != WITHDRAWN) {
        handled = server_call_host(server, "run", taken->message, NULL, NULL, NULL);
    }
    Py_XDECREF(handler);
    return handled;
}

/* Who waits for an answer gets one though there was no memory for a step of ours. */
int
server_take_up(const struct server *server, PyObject *message)
{
    const int taken = take_up(server, message);
    const bool short_of = taken < 0 && PyErr_ExceptionMatches(PyExc_MemoryError);

    return short_of ? server_tell_failure(server, message) : taken;
}
