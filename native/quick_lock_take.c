#include "quick_lock_parts.h"

#include "arguments.h"
#include "clock.h"
#include "delegation.h"
#include "turns_object.h"

#include <sys/stat.h>

enum { WAIT = 1, WAIT_TIMED = 2 };

void
quick_lock_withdraw(struct quick_lock *self)
{
    Py_CLEAR(self->slot);
    Py_CLEAR(self->path);
    Py_CLEAR(self->numbers);
    if (self->number == 0) {
        Py_CLEAR(self->keeper);
    }
}

/* Whether the path leads to the file still. Other threads run meanwhile. */
static bool
is_the_same_file(const struct quick_lock *self)
{
    PyObject *path = Py_NewRef(self->path);
    struct stat found;
    int failed;

    Py_BEGIN_ALLOW_THREADS
    failed = stat(PyBytes_AS_STRING(path), &found);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    return failed == 0 && (uint64_t)found.st_dev == self->device &&
           (uint64_t)found.st_ino == self->inode;
}

/* The next of the numbers; 0 with an exception. */
static uint64_t
next_number(struct quick_lock *self)
{
    PyObject *next = PyIter_Next(self->numbers);
    uint64_t number = 0;
    if (next == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "no number is left for an acquisition");
        }
        return 0;
    }
    if (as_unsigned(next, "number", UINT32_MAX, &number) < 0) {
        number = 0;
    }
    Py_DECREF(next);
    return number;
}

/* Locks in turns: 1 or 0. Where it may wait still, that is known by `asked`, to this or to Python. */
static int
take_turn(struct quick_lock *self, double timeout)
{
    PyObject *turns = Py_NewRef(self->slot);
    const struct turn wanted = {.handle = self->wanted.handle,
                                .thread = self->wanted.thread,
                                .wait = timeout < 0 ? WAIT : WAIT_TIMED};
    const bool has_waited = self->asked != 0; /* and is with the leader, if not here any more */

    if (!has_waited) {
        self->until = timeout < 0 ? INT64_MAX : timeout > 0 ? after_seconds(timeout) : 0;
    }
    self->waits = true;
    self->asked = wanted.handle;
    const int64_t number = turns_object_take(turns, &wanted, self->until);
    self->waits = false;
    self->asked = number == TURNS_WAIT_ON || (number == TURNS_NOT_HERE && has_waited)
                      ? wanted.handle
                      : 0;
    self->number = number > 0 ? (uint64_t)number : 0;
    if (number == TURNS_NOT_HERE) {
        quick_lock_withdraw(self);
    }
    Py_DECREF(turns);
    return number > 0;
}

static int
take_in_slot(struct quick_lock *self, struct lock_slot *slot)
{
    const int64_t granted = lock_slot_set(slot, &self->wanted);

    self->number = granted > 0 ? (uint64_t)granted : 0;
    return granted > 0;
}

int
quick_lock_take(struct quick_lock *self, double timeout)
{
    if (self->slot == NULL || self->number != 0 || self->waits) {
        return 0;
    }
    const int64_t agent = agent_here(&self->look);
    if (agent <= 0) {
        return (int)agent; /* a task of asyncio may be the one who asks */
    }
    const bool same = is_the_same_file(self);
    if (self->slot == NULL || self->number != 0 || self->waits ||
        (self->asked != 0 && self->wanted.thread != (uint32_t)agent)) {
        return 0; /* another thread was here */
    }
    struct lock_slot *slot = delegation_slot(self->slot);
    const bool in_turns = slot == NULL && is_turns(self->slot);
    if (!same || (slot == NULL && !in_turns)) {
        quick_lock_withdraw(self);
        return 0;
    }
    /* What was taken and given back in a slot is known to nobody: the next one there may be called the same. */
    if (self->asked == 0 && (in_turns || self->wanted.handle == 0)) {
        const uint64_t number = next_number(self);
        if (number == 0) {
            return -1;
        }
        self->wanted.handle = self->base + number;
    }
    self->wanted.thread = (uint32_t)agent;
    return in_turns ? take_turn(self, timeout) : take_in_slot(self, slot);
}

/* Takes what was locked quickly out of the slot, or out of the queue. */
static bool
unlock(struct quick_lock *self)
{
    struct lock_slot *slot = self->slot == NULL ? NULL : delegation_slot(self->slot);
    if (slot == NULL) {
        return is_turns(self->slot) && turns_object_leave(self->slot, self->wanted.handle);
    }
    struct lock_entry nothing = self->wanted;
    nothing.type = SLOT_NONE;
    return lock_slot_set(slot, &nothing) == 0;
}

bool
quick_lock_give(struct quick_lock *self)
{
    if (self->number == 0 || self->leaves || !unlock(self)) {
        return false;
    }
    self->number = 0;
    return true;
}
