/* What the files of the exchange share. Contract of the whole: exchange.h.
 *
 *   exchange.c          the object: what Python sees
 *   exchange_stations.c who is connected by a lane
 *   exchange_port.c     who is by a connection, and messages by it
 *   exchange_send.c     a message into a lane
 *   exchange_many.c     many to one peer, or one to many
 *   exchange_read.c     messages out of lanes
 *   exchange_seat.c     the seat of the bell, and reading from it
 *   exchange_call.c     a request, until it is answered
 *   exchange_relay.c    waiting for an answer, in turn with others who do
 *   exchange_look.c     a request for an event loop, and a look for its answer
 *   exchange_ping.c     a question that needs no interpreter
 *   exchange_serve.c    waiting for messages to handle, on the seat
 *   exchange_handle.c   one message and its handler
 *   exchange_run.c      messages that are handled in one call
 */
#ifndef LIBOS_IPC_EXCHANGE_PARTS_H
#define LIBOS_IPC_EXCHANGE_PARTS_H

#include "codec.h"
#include "lock.h"
#include "relay.h"
#include "routes.h"
#include "stations.h"
#include "tuples.h"

enum { RESP = 0, PING = 57, FIRST_USER_CODE = 64, MOST_AT_ONCE = 256 };

struct exchange {
    PyObject_HEAD
    PyObject *doorbell;
    PyObject *requests; /* Outstanding */
    PyObject *lock;     /* the session's */
    PyObject *rounds;   /* held by whoever reads lanes */
    PyObject *seat;     /* held by whoever sleeps on the bell as SEAT */
    PyObject *message;  /* the type of a program's message */
    PyObject *outgoing; /* the type of what is kept of a message sent */
    PyObject *withdraw; /* called with the number of a request that nobody waits for any more */
    PyObject *news;     /* peers that have everything, or are to be told what we have */
    uint64_t max_message;
    uint64_t send_buffer;
    uint64_t ack_every;
    char waiting;   /* a thread sleeps on the seat, here */
    char wanted;    /* somebody who waits for an answer could not have the seat */
    char halted;    /* nobody is to take the seat, or to stay on it */
    char watched;   /* somebody wants to know when a peer has everything */
    char unclocked; /* what goes out, or comes in, is to be told to the clock */
    double tick_at; /* but not what comes in earlier than this, of time.monotonic() */
    bool closed;
    PyObject *batch; /* messages read for `serve`, of which `handled` have been handled */
    Py_ssize_t handled;
    struct spares spares; /* messages that were handled, to be used again */
    uint64_t reading;     /* the number of the present reading of lanes, or of the last one */
    PyObject *lines; /* at which `serve` has found what is for Python */
    unsigned long long inside; /* threads inside handlers that `serve` has called */
    bool some_left;
    uint64_t left[BELL_WORDS]; /* lines at which a waiting thread has found what is for Python */
    struct relay relay;
    struct stations stations;
    struct index routes; /* peers without a lane, to which there is a connection */
};

static inline struct exchange *
exchange_of(PyObject *self)
{
    return (struct exchange *)self;
}

/* Whether this is a message of the program, as we make them. */
static inline bool
exchange_is_message(const struct exchange *exchange, PyObject *object)
{
    return Py_IS_TYPE(object, (PyTypeObject *)exchange->message) &&
           PyTuple_GET_SIZE(object) == FIELDS && PyBytes_Check(PyTuple_GET_ITEM(object, 3));
}

/* ---- sending */

/* What is sent; `entry` is what is entered if it is a request. What is put into a lane quietly has to be
 * published there: more comes right behind it. */
struct sending {
    struct header header;
    Py_buffer payload;
    PyObject *entry;
    bool quietly;
};

/* Gets hold of the payload. Any Python code may run, but for bytes. */
int sending_begin(struct sending *sending, PyObject *payload);
void sending_end(struct sending *sending);

/* Whether a message of the program's is as it should be, and needs nothing but to be sent. */
bool exchange_is_plain(const struct exchange *exchange, PyObject *payload, uint64_t code);

/* The same for a message of the program's to (peer, code, payload). 1; 0 if it is to go the long way,
 * perhaps because something is wrong with it; -1 with an exception. */
int sending_begin_plain(const struct exchange *exchange, struct sending *sending,
                        PyObject *const *args, uint64_t *peer);

/* Sends to this peer. 1, 0 if that is for Python to do, -1 with an exception. Between the look at the
 * session's lock and the message's being sent no Python code runs. */
int exchange_post(struct exchange *exchange, uint64_t peer, struct sending *sending);

/* The same by a connection, after that look; `size` is what counts at the receiver. */
int exchange_post_by_port(struct exchange *exchange, uint64_t peer, struct sending *sending,
                          uint64_t size);

/* Numbers the message, keeps it and enters it if it is a request. 0, -1 with an exception and nothing
 * has changed. */
int exchange_stamp(struct exchange *exchange, uint64_t peer, PyObject *ledger,
                   struct sending *sending, uint64_t size, struct envelope *envelope);

/* Whether anything goes to this peer from here, and what counts it; borrowed. */
PyObject *exchange_ledger(const struct exchange *exchange, uint64_t peer);

/* For the garbage collector, and for the end. */
int exchange_visit_routes(const struct exchange *exchange, visitproc visit, void *arg);
void exchange_drop_routes(struct exchange *exchange);

/* ---- reading; in a round */

/* What was read and is for Python. */
struct found {
    PyObject *messages; /* of the program; NULL if answers alone are to be read */
    PyObject *lines;    /* where more is to be done; NULL to leave that to the porter */
};

/* Whether a message of this peer can be dealt with here: the next one, and an answer to a request of ours
 * or, if they are read, the program's. */
bool exchange_is_ours(const struct exchange *exchange, uint64_t peer, PyObject *ledger,
                      const struct envelope *envelope, const struct header *header, bool messages);

/* Deals with it: settles the ticket, or adds it to `messages` (NULL if they are not read), and counts it.
 * Takes the payload over. 1; -1 with an exception, and then nothing has happened. */
int exchange_enter(struct exchange *exchange, uint64_t peer, PyObject *ledger,
                   const struct envelope *envelope, const struct header *header, PyObject *payload,
                   PyObject *messages);

/* Swaps a list for an empty one. What it was becomes the caller's; NULL with MemoryError. */
PyObject *exchange_take_list(PyObject **list);

/* Reads once what was rung. 1, 0 if nothing was, -1 with an exception. */
int exchange_read_rung(struct exchange *exchange, const struct found *found);

/* ---- the seat; by who has it, or wants it */

/* Takes the seat, if it can be had. */
bool exchange_sit(struct exchange *exchange);
void exchange_stand(struct exchange *exchange);

/* Signal handlers may do anything, such as fork: not on the seat. Whether it is taken again. */
int exchange_handle_signals(struct exchange *exchange);

/* Sleeps on the bell until it rings, and handles signals if it is time for that at this turn. 1, 0 if
 * the seat is lost, -1 with an exception; 2 if it need not be read. */
int exchange_sleep(struct exchange *exchange, int64_t deadline, int64_t *pause, unsigned turn);

/* Has the porter look at what a read has left to it. */
void exchange_leave_rest(struct exchange *exchange);

/* ---- the relay; relay.h says what it is */

/* A thread has come that may have to wait. */
void relay_enter(struct exchange *exchange);

/* Waits until the ticket is settled, at the latest until `deadline`, on the seat if that is ours or comes
 * free; it is left. 1, 0 if it is too late, -1 with an exception. Signals are handled. Blocks. */
int relay_wait(struct exchange *exchange, PyObject *ticket, int64_t deadline, bool seated);

/* Reads answers alone, until that of `ticket` is there if it is not NULL; what else was rung is left for the
 * porter. 1, 0 if somebody else is reading, -1 with an exception. Waits for nobody: signal handlers would
 * run meanwhile, on the seat. */
int relay_read(struct exchange *exchange, PyObject *ticket);

/* Wakes the first of those who are ready, if there is one: for who has read answers, and does not wait. */
void relay_wake(struct exchange *exchange);

/* Goes back to the program, from the seat or not. */
void relay_leave(struct exchange *exchange, bool seated);

/* ---- serving */

/* The code of a message that is not to be handled any more: of none that the program sends. */
enum { WITHDRAWN = 0 };

/* What one call of `serve` was given. */
struct server {
    struct exchange *exchange;
    PyObject *host;     /* what is not done here is done by its methods */
    PyObject *replies;  /* where answers go that are not sent from here */
    PyObject *handlers; /* code -> (function, decode or None, encode), or (function or None, decode
                         * or None) if messages that came together are handled in one call */
    PyObject *queued;   /* how many messages wait for a handler elsewhere; NULL if we do not serve */
    bool shared;        /* other threads take messages from there too */
    bool main;          /* no round is to be interrupted by signal handlers */
};

/* Calls a method of the host, with up to four arguments. -1 with its exception. */
int server_call_host(const struct server *server, const char *name, PyObject *one, PyObject *two,
                     PyObject *three, PyObject *four);

/* Takes a message up and calls its handler. -1 with an exception that is for whoever serves. */
int server_take_up(const struct server *server, PyObject *message);

/* The same for a one-way message with a handler of such messages in one call: those of its code that
 * come right behind it, in the batch and then in the host's queue, are taken up with it. */
int server_take_up_run(const struct server *server, PyObject *message, PyObject *handler);

/* The first of these messages has been taken up, and those behind it that are of the same sender: it may
 * send as much again. How many they are, -1 with an exception. */
int server_consume(const struct server *server, PyObject *const *messages, Py_ssize_t count);

/* A handler has failed, or what it returned is no payload: the exception, which is taken over, becomes
 * the answer. */
int server_tell_failure(const struct server *server, PyObject *message);

/* Whether messages wait in the queue. -1 with an exception. */
int server_is_queued(const struct server *server);

/* Forgets whoever is connected by a lane. */
void exchange_drop_stations(struct exchange *exchange);

/* ---- methods; these four under the session's lock */

PyObject *exchange_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_write(PyObject *self, PyObject *argument);
PyObject *exchange_read_from(PyObject *self, PyObject *argument);
PyObject *exchange_disconnect(PyObject *self, PyObject *argument);

PyObject *exchange_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_read(PyObject *self, PyObject *ignored);
PyObject *exchange_left(PyObject *self, PyObject *ignored);
PyObject *exchange_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_ask(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_request(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_look(PyObject *self, PyObject *argument);
PyObject *exchange_ping(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_post_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_post_many(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_post_all(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_serve(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_withdraw(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_reach(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_unreach(PyObject *self, PyObject *argument);
PyObject *exchange_take_in(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *exchange_handle(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

#endif
