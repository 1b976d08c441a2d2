/* The parts of a QuickLock (quick_lock.h): the object, and how it locks and unlocks. */
#ifndef LIBOS_IPC_QUICK_LOCK_PARTS_H
#define LIBOS_IPC_QUICK_LOCK_PARTS_H

#include "agent.h"
#include "lock_slot.h"
#include "native.h"

struct quick_lock {
    PyObject_HEAD
    PyObject *slot;    /* a Delegation or Turns; NULL if nothing is offered, and so the next two */
    PyObject *path;    /* bytes */
    PyObject *numbers; /* an iterator: each acquisition has its own, in a slot those of one offer the same */
    struct agent_look look;
    uint64_t device;
    uint64_t inode;
    uint64_t base; /* of handles; a number is added to it, which makes `wanted.handle` */
    struct lock_entry wanted;
    uint64_t number; /* of the grant of what is held quickly, as `wanted` says; 0 for nothing */
    PyObject *keeper; /* what keeps the inode in use as long as it is there; NULL for nothing */
    bool leaves;     /* Python takes over what is held: it is not given back here any more */
    double timeout;  /* how long an acquisition waits; below 0 for as long as it takes */
    uint64_t asked;  /* the handle of an acquisition that may wait in turns still, 0 for none */
    int64_t until;   /* … and for how long it does (of clock.h): 0 for not at all, INT64_MAX for ever */
    bool waits;      /* one does, in this moment */
};

/* Nothing is offered any more. What is held stays held. */
void quick_lock_withdraw(struct quick_lock *self);

/* 1 if it is locked quickly now, 0 if that is for Python, -1 with an exception. May block: for as long as
 * looking up the path does, and in turns for a moment, at the latest for `timeout` (below 0 for ever). */
int quick_lock_take(struct quick_lock *self, double timeout);

/* Whether what was locked quickly is unlocked now. */
bool quick_lock_give(struct quick_lock *self);

#endif
