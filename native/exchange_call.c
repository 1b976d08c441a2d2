#include "exchange_parts.h"

#include "arguments.h"
#include "clock.h"
#include "doorbell.h"
#include "python_lock.h"
#include "signal_look.h"
#include "ticket.h"

#include <errno.h>

/* Turns of a waiting thread at the bell between two looks for signals, and reads in one turn. */
enum { TURNS = 64, READS = 8 };

/* Reads answers alone; what else was rung is left for the porter. 0, 1 if somebody else is reading, -1
 * with an exception. Waits for nobody: signal handlers would run meanwhile, on the seat. */
static int
read_answers(struct exchange *exchange)
{
    struct bell *bell = doorbell_bell(exchange->doorbell);
    const struct found found = {NULL, NULL};
    int read = 1;

    const int taken = python_lock_try(&exchange->rounds);
    if (taken <= 0) {
        return taken < 0 ? -1 : 1;
    }
    for (int i = 0; read > 0 && i < READS; i++) {
        read = exchange_read_rung(exchange, &found);
    }
    if (read != 0) {
        bell_rest(bell);
    }
    python_lock_release(&exchange->rounds);
    if (exchange->some_left || PyList_GET_SIZE(exchange->news) > 0) {
        bell_nudge(bell, BELL_PORTER);
    }
    return read < 0 ? -1 : 0;
}

/* The seat of the bell: 1, 0 if it cannot be had, -1 with an exception. */
static int
take_seat(struct exchange *exchange)
{
    const int taken = exchange->halted ? 0 : python_lock_try(&exchange->seat);

    if (taken > 0) {
        exchange->waiting = 1;
        bell_sit(doorbell_bell(exchange->doorbell));
    }
    return taken;
}

static void
leave_seat(struct exchange *exchange)
{
    struct bell *bell = doorbell_bell(exchange->doorbell);

    exchange->waiting = 0;
    if (bell_stand(bell)) {
        bell_nudge(bell, BELL_PORTER);
    }
    python_lock_release(&exchange->seat);
}

/* Signal handlers may do anything, such as fork: not on the seat. Whether it is taken again. */
static int
handle_signals(struct exchange *exchange)
{
    leave_seat(exchange);
    return PyErr_CheckSignals() < 0 ? -1 : take_seat(exchange);
}

/* Sleeps on the seat until the ticket is settled, or it is too late, or somebody else reads what
 * comes; then the seat is left. 0, or -1 with an exception. */
static int
wait_seated(struct exchange *exchange, PyObject *ticket, int64_t deadline)
{
    int64_t pause = 0;
    int seated = 1;

    for (unsigned turn = 1; seated > 0 && !ticket_is_settled(ticket) && !exchange->halted; turn++) {
        int found;
        int busy = 0;
        Py_BEGIN_ALLOW_THREADS
        found = doorbell_sleep(exchange->doorbell, BELL_SEAT, until_next_look(deadline, &pause));
        Py_END_ALLOW_THREADS
        if (found == EINTR || (found == ETIMEDOUT && now_ns() < deadline) || turn % TURNS == 0) {
            seated = handle_signals(exchange);
        } else {
            busy = read_answers(exchange);
        }
        if (busy != 0) {
            leave_seat(exchange);
            return busy < 0 ? -1 : 0;
        }
        if (deadline != INT64_MAX && now_ns() >= deadline) {
            break;
        }
    }
    if (seated > 0) {
        leave_seat(exchange);
    }
    return seated < 0 ? -1 : 0;
}

/* Posts a request and waits for its answer, on the seat if that is free. As `call`; -1 with an
 * exception, 2 if it was not posted. */
static int
post_and_wait(struct exchange *exchange, uint64_t peer, struct sending *sending, PyObject *ticket,
              int64_t deadline)
{
    const int seated = take_seat(exchange);

    if (seated < 0) {
        return -1;
    }
    const int posted = exchange_post(exchange, peer, sending);
    if (posted > 0) {
        ticket_set_number(ticket, sending->header.seq);
    }
    if (seated && posted <= 0) {
        leave_seat(exchange);
    }
    if (posted <= 0) {
        return posted < 0 ? -1 : 2;
    }
    if (seated && wait_seated(exchange, ticket, deadline) < 0) {
        return -1;
    }
    return ticket_is_settled(ticket);
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
        as_deadline(args[4], &deadline) < 0) {
        return NULL;
    }
    if (!ticket_check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "call() takes a Ticket");
        return NULL;
    }
    if (stations_find(&exchange->stations, peer) == NULL) {
        Py_RETURN_NONE;
    }
    if (sending_begin(exchange, &sending, args[1], Py_None, args[2]) < 0) {
        return NULL;
    }
    int result = -1;
    sending.entry = PyTuple_Pack(2, args[1], args[3]);
    if (sending.entry != NULL) {
        result = post_and_wait(exchange, peer, &sending, args[3], deadline);
    }
    sending_end(&sending);
    if (result < 0) {
        return NULL;
    }
    return result == 2 ? Py_NewRef(Py_None) : PyBool_FromLong(result);
}
