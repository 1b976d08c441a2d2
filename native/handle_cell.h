/* HandleCell: what this process has of one sync handle, and who uses it, where C can see it.
 *
 * The base of `LocalHandle`, the client's machine, which keeps the rest of a handle and decides; its
 * fields are the machine's own, and there is no second copy of any. What is here answers two
 * questions without Python: may this thread have the lock, and may it give it back, with nobody to
 * be told and nobody to be waited for?
 *
 * Steps of the machine are taken under the session's lock. Who calls from C holds the interpreter
 * lock and has seen that nobody holds that one (exchange_is_free), so that it meets no step half
 * done. Nothing here blocks.
 *
 * Whoever has the lock EXCLUSIVE must have said so in the record, which outlives the process; so
 * such a lock is taken and given back from here only where there is one. Or where there is a baton
 * (baton.h): then the process has EXCLUSIVE just as long as somebody here uses the handle, and what is
 * said there is enough.
 *
 * While nobody here uses the handle, what the process has may lie where the leader can take it (deposit.h).
 * The fields still say what was put there: whoever is about to rely on them takes it back first.
 */
#ifndef LIBOS_IPC_HANDLE_CELL_H
#define LIBOS_IPC_HANDLE_CELL_H

#include "native.h"

enum handle_state { HANDLE_INVALID = 1, HANDLE_SHARED = 2, HANDLE_EXCLUSIVE = 3 };

struct handle_cell {
    PyObject_HEAD
    PyObject *value;      /* (version, data): a kind of tuple; NULL until the machine sets it */
    PyObject *waits;      /* who waits for the lock here; None or NULL for nobody */
    PyObject *watches;    /* who waits for a change; None or NULL for nobody */
    PyObject *record;     /* where values are committed; None or NULL until that is known */
    PyObject *baton;      /* by which EXCLUSIVE is taken and given; None or NULL for none */
    PyObject *deposit;    /* where the leader may take it while it is not used; None or NULL for nowhere */
    uint64_t number;      /* of the last wait for the lock */
    unsigned int opened;  /* how often; 0 when the handle is not open here any more */
    unsigned int state;
    unsigned int user;    /* the agent that has the lock, 0 for none, and … */
    unsigned int using;   /* … as what */
    unsigned int recall;  /* the state to go down to, 0 for none */
    unsigned int told;    /* whom the server takes for the user */
    char owner_died;      /* the next one to lock is to be told */
    char own;             /* the value was committed here, after the last grant */
};

/* The cell of a HandleCell or what is derived from it; NULL if it is none. */
struct handle_cell *handle_cell_of(PyObject *object);

/* Takes the lock for this agent, if that takes neither waiting nor a word to the server. */
bool handle_cell_lock(struct handle_cell *cell, uint32_t agent, uint32_t state);

/* Whether this agent has the lock and may give it back, the value as it is, with nobody to be told. */
bool handle_cell_may_unlock(const struct handle_cell *cell, uint32_t agent);

/* Gives it back, when that may be. */
void handle_cell_unlock(struct handle_cell *cell);

/* Lets the leader take what is here, if nobody uses it and nobody is to be told of anything. For who has
 * committed whatever there was to commit. */
void handle_cell_put(const struct handle_cell *cell);

/* Takes the lock EXCLUSIVE for this agent by the baton, and has the newest value. 1; 0 if that cannot be
 * had this way, -1 with MemoryError. */
int handle_cell_take(struct handle_cell *cell, uint32_t agent);

/* Gives back what was taken so, with a new value, a kind of (version, bytes), or NULL for none. False if
 * that cannot be done this way, and nothing has changed. */
bool handle_cell_give(struct handle_cell *cell, uint32_t agent, PyObject *value);

/* Whether a new value would be news to somebody in this process. */
bool handle_cell_is_watched(const struct handle_cell *cell);

int handle_cell_setup(PyObject *module);

#endif
