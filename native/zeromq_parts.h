/* What the two files of a port share. Contract of the whole: zeromq.h.
 *
 *   zeromq.c           the object, ZeroMQ's functions, and sending
 *   zeromq_receive.c   receiving
 */
#ifndef LIBOS_IPC_ZEROMQ_PARTS_H
#define LIBOS_IPC_ZEROMQ_PARTS_H

#include "zeromq.h"

/* Of ZeroMQ's stable interface, version 4. */
enum { ZMQ_DONTWAIT = 1, ZMQ_SNDMORE = 2, ZMQ_SRCFD = 2, ZMQ_MAJOR = 4 };

struct library {
    void (*version)(int *major, int *minor, int *patch);
    int (*error)(void);
    int (*init)(struct message *message);
    int (*receive)(struct message *message, void *socket, int flags);
    void *(*data)(struct message *message);
    size_t (*size)(const struct message *message);
    int (*more)(const struct message *message);
    int (*get)(const struct message *message, int property);
    const char *(*gets)(const struct message *message, const char *property);
    int (*close)(struct message *message);
    int (*send)(void *socket, const void *data, size_t size, int flags);
};

/* Frames given out of one message, its route not counted: one more than any of ours has. */
enum { MOST_FRAMES = 4 };
/* Bytes from which on copying is worth letting other threads run. */
enum { MUCH = 65536 };

struct port {
    PyObject_HEAD
    struct library zmq;
    void *handle; /* of the module that the functions were found through */
    void *socket; /* NULL once closed */
};

static inline struct port *
port_of(PyObject *self)
{
    return (struct port *)self;
}

/* 0, -1 with ValueError once the port is closed. */
int port_require_open(const struct port *port);
PyObject *port_failed(int number);

PyObject *port_receive(PyObject *self, PyObject *known);

#endif
