/* Turns for Python (turns.h): a process's end of them, or the leader's.
 *
 * The interpreter lock keeps the threads of a process apart, and is released only while one waits. The
 * object keeps the memory until it is released, and as long as one waits there; from then on it is as
 * if all had ended.
 */
#ifndef LIBOS_IPC_TURNS_OBJECT_H
#define LIBOS_IPC_TURNS_OBJECT_H

#include "native.h"
#include "turns.h"

/* How long anybody waits here: whoever waits for longer does so at the leader, who finds cycles. */
#define TURNS_MOMENT_NS INT64_C(20000000)

/* What `turns_object_take` says besides a number: the lock is not to be had here; it waits still, or
 * the leader knows that it waits. */
enum { TURNS_NOT_HERE = 0, TURNS_WAIT_ON = -1 };

bool is_turns(PyObject *object);

/* Takes the lock for this acquisition, which may be in the queue already; waits for a moment, at the
 * latest until `deadline` (0 for not at all), and less if a signal comes. Blocks. */
int64_t turns_object_take(PyObject *object, const struct turn *wanted, int64_t deadline);

/* `turns_leave`. */
bool turns_object_leave(PyObject *object, uint64_t handle);

int turns_setup(PyObject *module);

#endif
