#include "exchange.h"

#include "arguments.h"
#include "calls.h"
#include "doorbell.h"
#include "exchange_parts.h"
#include "lane.h"

#include <structmember.h>

static int
exchange_traverse(PyObject *self, visitproc visit, void *arg)
{
    const struct exchange *exchange = exchange_of(self);

    Py_VISIT(Py_TYPE(self));
    Py_VISIT(exchange->doorbell);
    Py_VISIT(exchange->requests);
    Py_VISIT(exchange->message);
    Py_VISIT(exchange->outgoing);
    Py_VISIT(exchange->withdraw);
    Py_VISIT(exchange->news);
    Py_VISIT(exchange->batch);
    Py_VISIT(exchange->lines);
    Py_VISIT(exchange->lock);
    Py_VISIT(exchange->rounds);
    Py_VISIT(exchange->seat);
    for (unsigned line = 0; line < BELL_LINES; line++) {
        const struct station *station = exchange->stations.by_line[line];
        if (station != NULL) {
            Py_VISIT(station->lane);
            Py_VISIT(station->ledger);
        }
    }
    return exchange_visit_routes(exchange, visit, arg);
}

static int
exchange_clear(PyObject *self)
{
    struct exchange *exchange = exchange_of(self);

    exchange->closed = true;
    exchange_drop_stations(exchange);
    exchange_drop_routes(exchange);
    Py_CLEAR(exchange->doorbell);
    Py_CLEAR(exchange->requests);
    Py_CLEAR(exchange->lock);
    Py_CLEAR(exchange->rounds);
    Py_CLEAR(exchange->seat);
    Py_CLEAR(exchange->message);
    Py_CLEAR(exchange->outgoing);
    Py_CLEAR(exchange->withdraw);
    Py_CLEAR(exchange->news);
    Py_CLEAR(exchange->batch);
    spares_drop(&exchange->spares);
    Py_CLEAR(exchange->lines);
    return 0;
}

static void
exchange_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    exchange_clear(self);
    stations_free(&exchange_of(self)->stations);
    index_free(&exchange_of(self)->routes);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
bool
exchange_check(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == exchange_dealloc;
}

bool
exchange_is_free(PyObject *self)
{
    const struct exchange *exchange = exchange_of(self);

    return !exchange->closed && !lock_is_held(exchange->lock);
}

static bool
is_tuple_type(PyObject *type)
{
    return PyType_IsSubtype((PyTypeObject *)type, &PyTuple_Type);
}

static PyObject *
exchange_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"doorbell", "requests",    "lock",        "rounds",    "seat", "message",
                            "outgoing", "withdraw",    "max_message", "send_buffer", "ack_every",
                            NULL};
    PyObject *doorbell, *requests, *lock, *rounds, *seat, *message, *outgoing, *withdraw;
    unsigned long long max_message, send_buffer, ack_every;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOO!O!OKKK:Exchange", names, &doorbell,
                                     &requests, &lock, &rounds, &seat, &PyType_Type, &message,
                                     &PyType_Type, &outgoing, &withdraw, &max_message,
                                     &send_buffer, &ack_every) ||
        doorbell_bell(doorbell) == NULL || outstanding_table(requests) == NULL) {
        return NULL;
    }
    if (!is_tuple_type(message) || !is_tuple_type(outgoing) || !lock_check(lock) ||
        !lock_check(rounds) || !lock_check(seat)) {
        PyErr_SetString(PyExc_TypeError, "Exchange() takes Locks, and kinds of tuples for messages");
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    struct exchange *exchange = exchange_of(self);
    ring_init(&exchange->relay.ready);
    exchange->doorbell = Py_NewRef(doorbell);
    exchange->requests = Py_NewRef(requests);
    exchange->lock = Py_NewRef(lock);
    exchange->rounds = Py_NewRef(rounds);
    exchange->seat = Py_NewRef(seat);
    exchange->message = Py_NewRef(message);
    exchange->outgoing = Py_NewRef(outgoing);
    exchange->withdraw = Py_NewRef(withdraw);
    exchange->news = PyList_New(0);
    exchange->batch = PyList_New(0);
    exchange->lines = PyList_New(0);
    exchange->max_message = max_message;
    exchange->send_buffer = send_buffer;
    exchange->ack_every = ack_every;
    if (exchange->news == NULL || exchange->batch == NULL || exchange->lines == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static PyObject *
exchange_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    exchange_of(self)->closed = true;
    exchange_drop_stations(exchange_of(self));
    exchange_drop_routes(exchange_of(self));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connect_doc, "connect($self, peer, line, lane, ledger, /)\n--\n\n"
                          "This peer has this line of the bell. Nothing when closed.");

PyDoc_STRVAR(write_doc, "write($self, peer, /)\n--\n\n"
                        "What is sent to this peer goes by its lane from now on.");

PyDoc_STRVAR(read_from_doc, "read_from($self, peer, /)\n--\n\n"
                            "What this peer has written is read from now on.");

PyDoc_STRVAR(disconnect_doc, "disconnect($self, peer, /)\n--\n\n"
                             "Forget this peer, if it is connected.");

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Nothing is sent this way any more, and what is read is for Python.");

PyDoc_STRVAR(send_doc, "send($self, peer, code, seq, payload, /)\n--\n\n"
                       "Send a message to this peer. False if it has to be sent the long way.");

PyDoc_STRVAR(read_doc,
             "read($self, /)\n--\n\n"
             "What was rung, read once: (messages of the program, lines at which there is something "
             "else, peers that have everything or are to be told what we have), or None when "
             "nothing was rung. While it gives something nobody is woken. In a round.");

PyDoc_STRVAR(left_doc, "left($self, /)\n--\n\n"
                       "What `serve` has found for others: lines, and peers, as `read` gives them. In "
                       "a round.");

PyDoc_STRVAR(call_doc,
             "call($self, peer, code, payload, ticket, deadline, /)\n--\n\n"
             "Send a request to this peer and wait for its answer, until `deadline` (of "
             "time.monotonic(), or None). True when the ticket is settled, False when it is too "
             "late; None if the request has to be sent the long way. Signals are handled. Blocks.");

PyDoc_STRVAR(ping_doc,
             "ping($self, peer, timeout, /)\n--\n\n"
             "Have this peer's clerk answer, within so many seconds or None: True, False when it is too "
             "late; None if that is to be asked by a message. Signals are handled. Blocks.");

PyDoc_STRVAR(ask_doc,
             "ask($self, peer, code, payload, timeout, /)\n--\n\n"
             "The same for a request of the program's, with a time-out in seconds or None: the "
             "answer, or the error that it is; False when it is too late; None if it has to be "
             "sent the long way, perhaps because something is wrong with it. Whatever ends the wait "
             "without an answer, the request is withdrawn. Blocks.");

PyDoc_STRVAR(post_doc,
             "post($self, peer, code, payload, /)\n--\n\n"
             "Send a one-way message of the program's. False if it has to be sent the long way, "
             "perhaps because something is wrong with it.");

PyDoc_STRVAR(post_many_doc,
             "post_many($self, peer, code, payloads, place, /)\n--\n\n"
             "The same for those of a tuple from this place on, one behind the other: the place of the "
             "first that has to be sent the long way, or the number of all.");

PyDoc_STRVAR(post_all_doc, "post_all($self, peers, code, payload, /)\n--\n\n"
                           "The same to each of a tuple of peers: those to whom it has to be sent the "
                           "long way.");

PyDoc_STRVAR(request_doc,
             "request($self, peer, code, payload, ticket, /)\n--\n\n"
             "Send a request of the program's, and settle the ticket when the answer comes. False if it has "
             "to be sent the long way, perhaps because something is wrong with it.");

PyDoc_STRVAR(look_doc,
             "look($self, seconds, /)\n--\n\n"
             "Read the answers that are there, or come within so many seconds. Whether anything was rung. "
             "Runs no Python code, handles no signals. Blocks for that long. Not from a round.");

PyDoc_STRVAR(serve_doc,
             "serve($self, host, replies, handlers, queued, shared, /)\n--\n\n"
             "Read messages of the program, on the seat, and call their handlers, off it: "
             "`handlers` has (function, decode or None, encode) by code, or (function or None, decode or "
             "None) to have one-way messages that came together handled in one call: `gather(messages, "
             "True)` adds those of the queue and returns the one behind them or None, "
             "`run_batch(messages)` does what is not done here. Everything else is "
             "done by methods of `host`: `run(message)` where there is no such handler, "
             "`failed(replies, message, error)`, `answer(replies, src, seq, payload)` where that "
             "has to go the long way, `consumed(replies, src, payload)` for a message of somebody "
             "without a lane, `announce(replies, src)` when the sender is to hear how much "
             "was taken up, `finish_round()` in a round that has left something, "
             "`take()` for a message that waits elsewhere, when `queued()` says so, and "
             "`deliver(message)` for what others may handle, if it is `shared`. "
             "Returns when `take` gives no message, or the seat "
             "cannot be had, or is wanted by others, or the exchange was closed. Signals are handled. "
             "Blocks. One thread, unless it is shared.");

PyDoc_STRVAR(withdraw_doc, "withdraw($self, src, seq, /)\n--\n\n"
                           "Do not handle this request, if `serve` has it and has not begun.");

PyDoc_STRVAR(reach_doc,
             "reach($self, peer, port, route, ledger, /)\n--\n\n"
             "There is a connection to this peer, by this port, until `unreach`. What is sent goes "
             "by it if there is no lane. Nothing when closed.");

PyDoc_STRVAR(unreach_doc, "unreach($self, peer, /)\n--\n\n"
                          "There is none any more, if there was one.");

PyDoc_STRVAR(take_in_doc,
             "take_in($self, port, known, /)\n--\n\n"
             "What has arrived at this port, up to the first message that is for Python: (messages "
             "of the program, peers that have everything or are to be told what we have, that "
             "message as `Port.receive` gives it). Instead of the last None if there is "
             "nothing more, True if there may be. `known` is of objects whose `heard` is the peer, or 0. In a "
             "round.");

PyDoc_STRVAR(handle_doc, "handle($self, host, replies, handlers, message, /)\n--\n\n"
                         "Take a message up and call its handler, as `serve` does.");

static PyMethodDef exchange_methods[] = {
    {"connect", NATIVE_METHOD(exchange_connect), METH_FASTCALL, connect_doc},
    {"write", exchange_write, METH_O, write_doc},
    {"read_from", exchange_read_from, METH_O, read_from_doc},
    {"disconnect", exchange_disconnect, METH_O, disconnect_doc},
    {"close", exchange_close, METH_NOARGS, close_doc},
    {"send", NATIVE_METHOD(exchange_send), METH_FASTCALL, send_doc},
    {"read", exchange_read, METH_NOARGS, read_doc},
    {"left", exchange_left, METH_NOARGS, left_doc},
    {"call", NATIVE_METHOD(exchange_call), METH_FASTCALL, call_doc},
    {"ping", NATIVE_METHOD(exchange_ping), METH_FASTCALL, ping_doc},
    {"ask", NATIVE_METHOD(exchange_ask), METH_FASTCALL, ask_doc},
    {"request", NATIVE_METHOD(exchange_request), METH_FASTCALL, request_doc},
    {"look", exchange_look, METH_O, look_doc},
    {"post", NATIVE_METHOD(exchange_post_method), METH_FASTCALL, post_doc},
    {"post_many", NATIVE_METHOD(exchange_post_many), METH_FASTCALL, post_many_doc},
    {"post_all", NATIVE_METHOD(exchange_post_all), METH_FASTCALL, post_all_doc},
    {"serve", NATIVE_METHOD(exchange_serve), METH_FASTCALL, serve_doc},
    {"withdraw", NATIVE_METHOD(exchange_withdraw), METH_FASTCALL, withdraw_doc},
    {"reach", NATIVE_METHOD(exchange_reach), METH_FASTCALL, reach_doc},
    {"unreach", exchange_unreach, METH_O, unreach_doc},
    {"take_in", NATIVE_METHOD(exchange_take_in), METH_FASTCALL, take_in_doc},
    {"handle", NATIVE_METHOD(exchange_handle), METH_FASTCALL, handle_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef exchange_members[] = {
    {"waiting", T_BOOL, offsetof(struct exchange, waiting), READONLY,
     "Whether a thread sleeps on the seat, in `call` or in `serve`."},
    {"inside", T_ULONGLONG, offsetof(struct exchange, inside), READONLY,
     "How many threads are inside handlers that `serve` has called."},
    {"wanted", T_BOOL, offsetof(struct exchange, wanted), 0,
     "Whether somebody who waits for an answer could not have the seat."},
    {"unclocked", T_BOOL, offsetof(struct exchange, unclocked), 0,
     "Whether the clock is to be told of what goes out, and of what comes in."},
    {"tick_at", T_DOUBLE, offsetof(struct exchange, tick_at), 0,
     "From when on, of time.monotonic(), it is to be told of what comes in."},
    {"halted", T_BOOL, offsetof(struct exchange, halted), 0,
     "Whether nobody is to take the seat, or to stay on it; who does is to be nudged."},
    {"watched", T_BOOL, offsetof(struct exchange, watched), 0,
     "Whether `read` is to tell which peers have everything."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(exchange_doc,
             "Exchange(doorbell, requests, lock, rounds, seat, message, outgoing, withdraw, "
             "max_message, send_buffer, ack_every)\n--\n\n"
             "The way of a message by a lane, without Python.");

static PyType_Slot exchange_slots[] = {
    {Py_tp_doc, (void *)exchange_doc},
    {Py_tp_new, exchange_new},
    {Py_tp_dealloc, exchange_dealloc},
    {Py_tp_traverse, exchange_traverse},
    {Py_tp_clear, exchange_clear},
    {Py_tp_methods, exchange_methods},
    {Py_tp_members, exchange_members},
    {0, NULL},
};

static PyType_Spec exchange_spec = {
    .name = "libos_ipc._native.Exchange",
    .basicsize = sizeof(struct exchange),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = exchange_slots,
};

int
exchange_setup(PyObject *module)
{
    return native_add_type(module, &exchange_spec);
}
