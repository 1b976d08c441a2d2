/* Requests: the table behind Outstanding, in plain C.
 *
 * A request is a sequence number, the peer it was asked of, and a ticket. It stands in three
 * places:
 *
 *   by_seq    index: sequence number -> request        an answer finds its request
 *   peer      ring:  requests of one peer, by age      a death finds all of them, and only them
 *   by_age    ring:  all requests, by age              drain and the garbage collector
 *
 * Every step is O(1), and none runs Python code: a ticket that is taken out is handed to the
 * caller, who drops it once nothing depends on the table any more. Entering is the only step that
 * can fail; it gets all memory first and changes the table afterwards. The caller sees to it that
 * no two threads are in here at once.
 */
#ifndef LIBOS_IPC_REQUESTS_H
#define LIBOS_IPC_REQUESTS_H

#include "index.h"
#include "ring.h"

/* A peer that owes answers; made with its first request and freed with its last. */
struct peer {
    struct node node; /* key: its VMID */
    struct link requests;
    Py_ssize_t count;
};

struct request {
    struct node node; /* key: its sequence number */
    struct link by_peer;
    struct link by_age;
    struct peer *peer;
    PyObject *ticket; /* owned */
};

struct requests {
    struct index by_seq;
    struct index peers;
    struct link by_age;
    uint64_t last; /* sequence number given out */
};

/* Makes zeroed memory an empty table. Cannot fail. */
void requests_init(struct requests *table);

/* Frees what an empty table keeps for later use. */
void requests_free(struct requests *table);

/* Enters a request under the next number and takes a reference to its ticket. -1 with
 * MemoryError, and then nothing has changed. `last` is below UINT64_MAX. */
int requests_add(struct requests *table, uint64_t vmid, PyObject *ticket);

/* A number for a request that stands nowhere: who sends it waits for it otherwise. `last` is below
 * UINT64_MAX. */
static inline uint64_t
requests_number(struct requests *table)
{
    return ++table->last;
}

/* The request of this number, or NULL. */
struct request *requests_find(const struct requests *table, uint64_t seq);

/* Takes a request out and frees it; its ticket becomes the caller's. */
PyObject *requests_remove(struct requests *table, struct request *request);

/* Has a request answered by another peer: -1 with MemoryError, and then nothing has changed. */
int requests_move(struct requests *table, struct request *request, uint64_t vmid);

/* Writes the numbers of a peer's requests, oldest first, to seqs[0 .. count of that peer - 1]. */
void requests_list(const struct requests *table, uint64_t vmid, uint64_t *seqs);

/* How many there are, and the oldest of them (there is one): of one peer, or of all if `vmid` is
 * NULL. */
Py_ssize_t requests_count(const struct requests *table, const uint64_t *vmid);
struct request *requests_oldest(const struct requests *table, const uint64_t *vmid);

#endif
