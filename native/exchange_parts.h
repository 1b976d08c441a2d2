/* What the files of the exchange share. Contract of the whole: exchange.h.
 *
 *   exchange.c        the object: who is connected; what Python sees
 *   exchange_send.c   a message into a lane
 *   exchange_read.c   messages out of lanes
 *   exchange_call.c   waiting for an answer, on the seat
 */
#ifndef LIBOS_IPC_EXCHANGE_PARTS_H
#define LIBOS_IPC_EXCHANGE_PARTS_H

#include "codec.h"
#include "python_lock.h"
#include "stations.h"

enum { RESP = 0, FIRST_USER_CODE = 64, MOST_AT_ONCE = 256 };

struct exchange {
    PyObject_HEAD
    PyObject *doorbell;
    PyObject *requests; /* Outstanding */
    struct python_lock lock;   /* the session's */
    struct python_lock rounds; /* held by whoever reads lanes */
    struct python_lock seat;   /* held by whoever sleeps on the bell as SEAT */
    PyObject *message;  /* the type of a program's message */
    PyObject *outgoing; /* the type of what is kept of a message sent */
    PyObject *news;     /* peers that have everything, or are to be told what we have */
    uint64_t max_message;
    uint64_t send_buffer;
    uint64_t ack_every;
    char waiting; /* a thread waits in `call`, on the seat */
    char halted;  /* nobody is to take the seat, or to stay on it */
    char watched; /* somebody wants to know when a peer has everything */
    bool closed;
    bool some_left;
    uint64_t left[BELL_WORDS]; /* lines at which a waiting thread has found what is for Python */
    struct stations stations;
};

static inline struct exchange *
exchange_of(PyObject *self)
{
    return (struct exchange *)self;
}

/* An object of a kind of tuple. Takes the fields over, also if it fails or there are none. */
PyObject *exchange_tuple(PyObject *type, PyObject *fields);

/* ---- sending */

/* What is sent: `outgoing` is what is kept of it, `entry` what is entered if it is a request. */
struct sending {
    struct header header;
    Py_buffer payload;
    PyObject *outgoing;
    PyObject *entry;
};

/* Gets everything that a message needs, but for its number. Any Python code may run. */
int sending_begin(struct exchange *exchange, struct sending *sending, PyObject *code,
                  PyObject *seq, PyObject *payload);
void sending_end(struct sending *sending);

/* Sends to this peer. 1, 0 if that is for Python to do, -1 with an exception. Between the look at the
 * session's lock and the end no Python code runs. */
int exchange_post(struct exchange *exchange, uint64_t peer, struct sending *sending);

/* ---- reading; in a round */

/* What was read and is for Python. */
struct found {
    PyObject *messages; /* of the program; NULL if answers alone are to be read */
    PyObject *lines;    /* where more is to be done; NULL as well */
};

/* Reads once what was rung. 1, 0 if nothing was, -1 with an exception. */
int exchange_read_rung(struct exchange *exchange, const struct found *found);

/* ---- methods */

PyObject *exchange_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_read(PyObject *self, PyObject *ignored);
PyObject *exchange_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

#endif
