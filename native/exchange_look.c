#include "exchange_parts.h"

#include "arguments.h"
#include "clock.h"
#include "doorbell.h"
#include "ticket.h"

/* Reads what is there, and leaves the seat. Whether anything was; -1 with an exception. */
static int
read_and_leave(struct exchange *exchange)
{
    const bool rung = bell_is_rung(doorbell_bell(exchange->doorbell));
    const int read = rung ? relay_read(exchange, NULL) : 0;

    relay_wake(exchange);
    relay_leave(exchange, true);
    return read < 0 ? -1 : rung;
}

/* Posts from the seat: on the same processor the answer is often there before we are back, and then no
 * thread was woken for it. */
static int
post_and_look(struct exchange *exchange, uint64_t peer, struct sending *sending)
{
    const bool by_lane = stations_find(&exchange->stations, peer) != NULL;
    const bool seated = by_lane && exchange_sit(exchange);
    const int posted = exchange_post(exchange, peer, sending);

    if (by_lane && posted > 0 && !seated) {
        exchange->wanted = true;
    }
    if (seated && read_and_leave(exchange) < 0) {
        PyErr_Clear(); /* the request has gone; what could not be read is rung still, for the porter */
    }
    return posted;
}

PyObject *
exchange_request(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    struct sending sending = {0};
    uint64_t peer;

    if (require_count("request", nargs, 4) < 0 || ticket_require(args[3]) < 0) {
        return NULL;
    }
    int sent = sending_begin_plain(exchange, &sending, args, &peer);
    if (sent > 0) {
        sending.entry = PyTuple_Pack(2, args[1], args[3]);
        sent = sending.entry == NULL ? -1 : post_and_look(exchange, peer, &sending);
        sending_end(&sending);
    }
    return sent < 0 ? NULL : PyBool_FromLong(sent);
}

PyObject *
exchange_look(PyObject *self, PyObject *argument)
{
    struct exchange *exchange = exchange_of(self);
    double seconds;

    if (as_seconds(argument, &seconds) < 0) {
        return NULL;
    }
    if (exchange->closed || !exchange_sit(exchange)) {
        Py_RETURN_FALSE;
    }
    const int64_t patience = ns_of(seconds);
    if (patience > 0 && !bell_is_rung(doorbell_bell(exchange->doorbell))) {
        Py_BEGIN_ALLOW_THREADS
        doorbell_sleep(exchange->doorbell, BELL_SEAT, now_ns() + patience);
        Py_END_ALLOW_THREADS
    }
    const int found = read_and_leave(exchange);
    return found < 0 ? NULL : PyBool_FromLong(found);
}
