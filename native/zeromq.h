/* Port: one ZeroMQ socket of pyzmq's, used without pyzmq's layer in between.
 *
 * A message of a link is three or four frames, and pyzmq makes an object and a handful of calls
 * of each. A Port takes a whole message in one call, by the functions of the very library that
 * pyzmq has loaded: they are looked up through the extension module that the socket came from,
 * never in another copy of ZeroMQ that the process may have. Nothing is linked or loaded.
 *
 * Nothing blocks: ZeroMQ is called with ZMQ_DONTWAIT, and with the interpreter lock held unless
 * there is much to copy. As with any ZeroMQ socket, one thread at a time may use a port; the
 * caller sees to it, also that the socket is open, until it calls `close`.
 *
 * What comes in is untrusted, but ZeroMQ has bounded each frame (ZMQ_MAXMSGSIZE). Of a message of
 * many frames only so many are given out that it is known to be none of ours.
 */
#ifndef LIBOS_IPC_ZEROMQ_H
#define LIBOS_IPC_ZEROMQ_H

#include "codec.h"

/* One of ZeroMQ's own, as large as that promises to stay. */
struct message {
    _Alignas(void *) unsigned char opaque[64];
};

enum { ARRIVAL_FRAMES = 3 };

/* The beginning of a message: its route, and up to two frames behind that. */
struct arrival {
    struct message frames[ARRIVAL_FRAMES];
    int count;
    PyObject *route;
    PyObject *connection; /* what the caller knows by this route; NULL if nothing */
};

/* Whether an object is a Port that has not been closed. */
bool port_is_open(PyObject *object);

/* Takes the next message in, as far as an arrival goes. 1, 0 when there is none, -1 with an exception;
 * after 1 `port_end` has to follow. `known` is a dict. */
int port_take(PyObject *self, PyObject *known, struct arrival *arrival);

/* How a message begins that has come from a connection that is known: its envelope, and its header.
 * False if it has none. */
bool port_has_head(PyObject *self, struct arrival *arrival, struct envelope *envelope,
                   struct header *header);

/* Its payload, in the most usual form, behind the header in one frame: it stands there until `port_end`.
 * NULL if it is not of that form, or not well formed. */
const unsigned char *port_plain_payload(PyObject *self, struct arrival *arrival,
                                        const struct header *header);

/* What `receive` returns of a message; its other frames are read for that. NULL with an exception. */
PyObject *port_give(PyObject *self, struct arrival *arrival);

/* Drops an arrival, and what is left of its message. */
void port_end(PyObject *self, struct arrival *arrival);

/* Queues a message whose payload is small, at an open port. False if it cannot go. Runs no Python
 * code, and does not release the interpreter lock. */
bool port_post(PyObject *self, PyObject *route, const struct envelope *envelope,
               const struct header *header, const Py_buffer *payload);

/* Bytes of a payload from which on it is not small. */
enum { PORT_SMALL = 16384 };

/* Adds the type to the module. */
int zeromq_setup(PyObject *module);

#endif
