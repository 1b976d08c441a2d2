/* Vigil: what is rung is looked at, though the thread on the seat has gone into a handler.
 *
 * A thread that calls handlers would have to stand up for each of them, so that the porter is woken
 * meanwhile; and in a stream of messages it would be woken all the time, for nothing, since most
 * handlers are back before it has got anywhere. So the seat goes on to count as awake while handlers
 * follow one another closely, and the porter wakes by itself every so often. When it finds the same
 * handler still running, the seat counts no longer.
 *
 *     seat     handler|handler|handler|handler…………………………………………
 *     porter   …………look…………look…………look: still the same one; reads in its place
 *
 * So what is rung during a handler waits for two looks at most, or four in a long stream of short ones,
 * where a handler that does not end has more likely lost the processor. A process that is asked little, or
 * whose handlers are slow, keeps no vigil: there whoever rings during a handler wakes the porter. One
 * pause makes no slow handler: a stream goes on after a time without the processor.
 */
#ifndef LIBOS_IPC_VIGIL_H
#define LIBOS_IPC_VIGIL_H

#include "bell.h"

/* In memory of our own. All zero to begin with, but for the bell. */
struct vigil {
    struct bell *bell;
    _Atomic uint32_t steps;  /* into handlers and out of them */
    _Atomic uint32_t inside; /* handlers that run */
    _Atomic bool kept;
    _Atomic bool called; /* the porter was called by somebody who wants it awake */
    int64_t left_at;     /* when the last handler began */
    _Atomic unsigned close; /* how many followed one another closely, less what pauses took off */
    uint32_t seen;       /* what the porter has seen of the bell's count */
};

/* The seated thread is about to call a handler, and is back. One thread at a time; but a handler may
 * serve, too, and so may another thread as long as the first one's handler lasts. */
void vigil_leave(struct vigil *vigil);
void vigil_return(struct vigil *vigil);

/* The porter: as `bell_sleep`, and 0 as well when the seat counts no longer and something was rung. */
int vigil_sleep(struct vigil *vigil, int64_t deadline);

/* Any thread: wake the porter. */
void vigil_call(struct vigil *vigil);

#endif
