#include "requests.h"

void
requests_init(struct requests *table)
{
    ring_init(&table->by_age);
}

void
requests_free(struct requests *table)
{
    index_free(&table->by_seq);
    index_free(&table->peers);
}

static struct peer *
find_peer(const struct requests *table, uint64_t vmid)
{
    return (struct peer *)index_get(&table->peers, vmid);
}

/* The peer of this VMID, made if need be; NULL with MemoryError. */
static struct peer *
find_or_make_peer(struct requests *table, uint64_t vmid)
{
    struct peer *peer = find_peer(table, vmid);

    if (peer != NULL || index_reserve(&table->peers) < 0) {
        return peer;
    }
    peer = PyMem_Calloc(1, sizeof(*peer));
    if (peer == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    peer->node.key = vmid;
    ring_init(&peer->requests);
    index_put(&table->peers, &peer->node);
    return peer;
}

static void
drop_if_idle(struct requests *table, struct peer *peer)
{
    if (peer->count == 0) {
        index_remove(&table->peers, &peer->node);
        PyMem_Free(peer);
    }
}

int
requests_add(struct requests *table, uint64_t vmid, PyObject *ticket)
{
    if (index_reserve(&table->by_seq) < 0) {
        return -1;
    }
    struct peer *peer = find_or_make_peer(table, vmid);
    if (peer == NULL) {
        return -1;
    }
    struct request *request = PyMem_Malloc(sizeof(*request));
    if (request == NULL) {
        drop_if_idle(table, peer);
        PyErr_NoMemory();
        return -1;
    }
    request->node.key = ++table->last;
    request->peer = peer;
    request->ticket = Py_NewRef(ticket);
    index_put(&table->by_seq, &request->node);
    ring_append(&peer->requests, &request->by_peer);
    ring_append(&table->by_age, &request->by_age);
    peer->count++;
    return 0;
}

struct request *
requests_find(const struct requests *table, uint64_t seq)
{
    return (struct request *)index_get(&table->by_seq, seq);
}

PyObject *
requests_remove(struct requests *table, struct request *request)
{
    PyObject *ticket = request->ticket;
    struct peer *peer = request->peer;

    index_remove(&table->by_seq, &request->node);
    ring_remove(&request->by_peer);
    ring_remove(&request->by_age);
    PyMem_Free(request);
    peer->count--;
    drop_if_idle(table, peer);
    return ticket;
}

int
requests_move(struct requests *table, struct request *request, uint64_t vmid)
{
    struct peer *before = request->peer;
    struct peer *peer = find_or_make_peer(table, vmid);

    if (peer == NULL) {
        return -1;
    }
    ring_remove(&request->by_peer);
    ring_append(&peer->requests, &request->by_peer);
    request->peer = peer;
    peer->count++;
    before->count--;
    drop_if_idle(table, before);
    return 0;
}

void
requests_list(const struct requests *table, uint64_t vmid, uint64_t *seqs)
{
    const struct peer *peer = find_peer(table, vmid);

    if (peer != NULL) {
        const struct link *head = &peer->requests;
        for (const struct link *link = head->next; link != head; link = link->next) {
            *seqs++ = RING_MEMBER(link, struct request, by_peer)->node.key;
        }
    }
}

Py_ssize_t
requests_count(const struct requests *table, const uint64_t *vmid)
{
    if (vmid == NULL) {
        return (Py_ssize_t)table->by_seq.used;
    }
    const struct peer *peer = find_peer(table, *vmid);
    return peer == NULL ? 0 : peer->count;
}

struct request *
requests_oldest(const struct requests *table, const uint64_t *vmid)
{
    if (vmid == NULL) {
        return RING_MEMBER(table->by_age.next, struct request, by_age);
    }
    return RING_MEMBER(find_peer(table, *vmid)->requests.next, struct request, by_peer);
}
