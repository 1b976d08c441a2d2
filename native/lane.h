/* The lane to one other process, for Python: messages both ways through one piece of memory.
 *
 *     channel first -> second | channel second -> first |
 *     desk of the one | desk of the other | data of the one | data of the other
 *
 * A message is what it is over any transport: envelope, header, payload. One that is larger than
 * the room there is goes in pieces, as the reader makes room; what has not gone yet waits in our
 * own memory, in order. For a large message, or many, the window of the channel is made larger; its
 * memory is given back when it has not been needed for a while.
 *
 * All of it happens under the interpreter lock, but for the copies of what is large. Meanwhile one
 * thread may be at either end, and others may send, which queues up, and close.
 */
#ifndef LIBOS_IPC_LANE_H
#define LIBOS_IPC_LANE_H

#include "codec.h"

/* An object that is a lane. Not for others. */
struct lane;
bool lane_check(PyObject *object);
struct lane *lane_of(PyObject *object);

/* Puts a message that fits, as was just found; its reader sees it when it is published. A reader that takes
 * the room back in between loses what it has not read. The size in the header is filled in. Runs no Python
 * code. */
void lane_put(struct lane *lane, const struct envelope *envelope, struct header *header,
              const Py_buffer *payload);

/* What was put is there for the reader, and the bell rings. Nothing on a closed lane. */
void lane_publish(struct lane *lane);

/* Whether a message with a payload of so many bytes can be put now. Not a large one: it is copied
 * without the interpreter lock, from a place. */
bool lane_fits(struct lane *lane, Py_ssize_t size);

/* Whether a payload of so many bytes does not fit only because of small ones before it, though the window is
 * as large as they make it. */
bool lane_is_crowded(const struct lane *lane, Py_ssize_t size);

/* Lets the reader make room, for some hundred microseconds at most: it may wait for our processor, or be about
 * to look. What was put is there for it. Without the interpreter lock: anything may have been done to the
 * lane meanwhile. */
void lane_await_reader(PyObject *lane);

/* A place for a message behind those that wait for room. It is made first, so that to send cannot
 * fail. NULL with MemoryError. */
struct waiting;
struct waiting *lane_place(PyObject *bytes);
void lane_drop_place(struct waiting *place);

/* Sends the message of this place, which is taken over, as soon as there is room. May let go of the
 * interpreter lock, and run Python code where what was sent is dropped. The lane is open. */
void lane_post_behind(struct lane *lane, struct waiting *place, const struct envelope *envelope,
                      struct header *header);
bool lane_is_open(const struct lane *lane);

/* Whether anything sent waits for room. */
bool lane_waits(const struct lane *lane);

/* What there is to read: nothing; a whole message, with this beginning, which stays where it is; or
 * something that only `receive` can deal with. Of a large message what is there is taken out, without
 * the interpreter lock: the lane may be closed meanwhile, but nobody else reads it. */
enum lane_found { LANE_EMPTY, LANE_WHOLE, LANE_OTHER };
enum lane_found lane_peek(struct lane *lane, uint64_t max_message, struct envelope *envelope,
                          struct header *header);

/* Takes the message that was found whole: its payload. NULL with MemoryError, and it is still there;
 * and so it is again once it is put back, with its payload, which is taken over. */
PyObject *lane_take(struct lane *lane, const struct header *header);
void lane_put_back(struct lane *lane, const struct envelope *envelope, const struct header *header,
                   PyObject *payload);

/* No more is taken now: what was makes room. */
void lane_taken(struct lane *lane);

/* Sends what waits for room, as far as there is some, but no more than about so many bytes at a time.
 * True if that was what ended it: then nobody will tell of room. As `lane_post_behind`. */
enum { LANE_TURN = 1 << 18 };
bool lane_flush(struct lane *lane, uint64_t most);

/* The desk at which the other end asks, and the memory that it lies in, borrowed. NULL with ValueError
 * if the lane is closed. */
struct desk;
struct desk *lane_served_desk(const struct lane *lane, PyObject **memory);

/* Whether something can be asked at the other end's desk now. */
bool lane_may_ask(const struct lane *lane);

/* Asks there and waits for the answer, until `deadline`. 1 when it has come, 0 if it is too late, -1
 * with an exception; 2 if it did not come soon, or the lane was closed: then a message is the way. The
 * size in the header is filled in. Looks for `spin` nanoseconds before it sleeps. Signals are handled.
 * Blocks without the interpreter lock. */
int lane_ask(PyObject *lane, struct header *header, int64_t deadline, int64_t spin);

int lane_setup(PyObject *module);

#endif
