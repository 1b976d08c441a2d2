/* What the files of a lane share. Contract of the whole: lane.h.
 *
 *   lane.c        the object: memory, whose bell, what Python sees
 *   lane_out.c    messages into the lane, and those that wait for room
 *   lane_in.c     messages out of it, also in pieces
 *   lane_desk.c   questions that need no interpreter, beside the channels
 */
#ifndef LIBOS_IPC_LANE_PARTS_H
#define LIBOS_IPC_LANE_PARTS_H

#include "lane.h"

#include "bell.h"
#include "channel.h"
#include "desk.h"

enum { MESSAGE_HEAD = ENVELOPE_SIZE + HEADER_SIZE };

/* A message that has not gone, or not all of it. */
struct waiting {
    struct waiting *next;
    unsigned char head[MESSAGE_HEAD];
    Py_buffer payload;
    uint64_t done; /* bytes of both */
};

struct lane {
    PyObject_HEAD
    PyObject *memory; /* Shared; NULL once closed */
    PyObject *their_memory;
    struct bell *bell; /* theirs, NULL until it is known */
    struct reception *reception; /* theirs; where the bell is */
    unsigned line;
    struct channel_end out;
    struct channel_end in;
    struct desk *asked;  /* by us */
    struct desk *served; /* by our clerk */
    uint32_t turn;       /* of our last question */
    bool asking;         /* a thread waits for its answer */
    struct waiting *first;
    struct waiting **last;
    /* the message that is arriving: its payload is NULL until its head is there */
    struct envelope envelope;
    struct header header;
    PyObject *payload;
    uint64_t arrived;
    bool broken; /* nothing that comes can be believed any more */
};

/* -1 with ValueError if the lane is closed. */
int lane_require_open(const struct lane *lane);

/* Has the other end look: something was written, or there is room. */
void lane_ring(const struct lane *lane);

/* Drops the first of those that wait. There is one. */
void lane_drop_first(struct lane *lane);

/* ---- methods */

PyObject *lane_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *lane_receive(PyObject *self, PyObject *argument);

#endif
