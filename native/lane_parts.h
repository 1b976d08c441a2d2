/* What the files of a lane share. Contract of the whole: lane.h.
 *
 *   lane.c        the object: memory, whose bell, what Python sees
 *   lane_out.c    messages into the lane, and those that wait for room
 *   lane_window.c how large the window for them is
 *   lane_in.c     messages out of it, also in pieces
 *   lane_desk.c   questions that need no interpreter, beside the channels
 */
#ifndef LIBOS_IPC_LANE_PARTS_H
#define LIBOS_IPC_LANE_PARTS_H

#include "lane.h"

#include "bell.h"
#include "channel.h"
#include "desk.h"

#include <pthread.h>
#include <sys/types.h>

/* LARGE: bytes that are not copied with the interpreter lock held; PIECE: the most that is published at
 * a time; STREAM: the most that many small messages make of a window. */
enum {
    MESSAGE_HEAD = ENVELOPE_SIZE + HEADER_SIZE,
    LARGE = 1 << 15,
    PIECE = 1 << 18,
    STREAM = 1 << 17
};

/* A message that has not gone, or not all of it. */
struct waiting {
    struct waiting *next;
    unsigned char head[MESSAGE_HEAD];
    Py_buffer payload;
    uint64_t done; /* bytes of both */
};

/* What a thread holds of a lane, so that it may be closed meanwhile. */
struct hold {
    PyObject *memory; /* NULL for nothing */
    pthread_t thread;
};

struct lane {
    PyObject_HEAD
    PyObject *memory; /* Shared; NULL once closed */
    pid_t process;    /* whose end this is: a forked child has a copy */
    PyObject *their_memory;
    struct bell *bell; /* theirs, NULL until it is known */
    struct reception *reception; /* theirs; where the bell is */
    unsigned line;
    char quiet; /* what is sent wakes nobody */
    struct channel_end out;
    struct channel_end in;
    uint64_t unread_since; /* up to where the other end had read, the last time; UINT64_MAX for all */
    struct desk *asked;  /* by us */
    struct desk *served; /* by our clerk */
    uint32_t turn;       /* of our last question */
    struct hold asking;  /* a thread waits for its answer */
    uint64_t most; /* of the window on the way out */
    uint64_t wish; /* a larger window, once the channel is empty; 0 for none */
    bool stretched; /* the window was found too small lately, or would be if it were the least */
    struct waiting *first;
    struct waiting **last;
    const struct waiting *going; /* the first, while it is copied without the interpreter lock */
    struct hold putting;         /* a thread puts what waits */
    /* the message that is arriving: its payload is NULL until its head is there; and a number, the
     * bytes that it has, if there is no memory for them and they are dropped as they come */
    struct envelope envelope;
    struct header header;
    PyObject *payload;
    uint64_t arrived;
    struct hold taking; /* a thread takes out what there is of it */
    bool broken; /* nothing that comes can be believed any more */
};

/* -1 with ValueError if the lane is closed. */
int lane_require_open(const struct lane *lane);

/* Keeps the memory of a lane that is open, until this is let go of. */
void lane_hold(const struct lane *lane, struct hold *hold);
void lane_let_go(struct hold *hold);

/* Has the other end look: something was written, or there is room. */
void lane_ring(const struct lane *lane);

/* Drops the first of those that wait; if it is just going, who puts it will. There is one. */
void lane_drop_first(struct lane *lane);

static inline uint64_t
message_size(const struct waiting *message)
{
    return MESSAGE_HEAD + (uint64_t)message->payload.len;
}

/* Before a message begins to go: a window that is too small for it is not begun with. */
void lane_begin_window(struct lane *lane, const struct waiting *message);

/* The message does not go on: a larger window, if one is wished for, or else room is waited for.
 * False if there is nothing to do but to wait; the reader will ring. */
bool lane_make_room(struct lane *lane, const struct waiting *message);

/* Whether the window has place for so many bytes, made larger if that can be at once. */
bool lane_stretch(struct lane *lane, uint64_t size);

/* ---- methods */

PyObject *lane_settle(PyObject *self, PyObject *idle);
PyObject *lane_get_window(PyObject *self, void *closure);
PyObject *lane_get_most(PyObject *self, void *closure);
int lane_set_most(PyObject *self, PyObject *value, void *closure);

PyObject *lane_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *lane_receive(PyObject *self, PyObject *argument);

#endif
