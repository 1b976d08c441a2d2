#include "calls.h"

#include "arguments.h"
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
    PyObject *ticket;
};

struct outstanding {
    PyObject_HEAD
    struct index by_seq;
    struct index peers;
    struct link by_age;
    uint64_t last; /* sequence number given out */
};

static struct outstanding *
as_outstanding(PyObject *self)
{
    return (struct outstanding *)self;
}

static struct request *
find_request(const struct outstanding *self, uint64_t seq)
{
    return (struct request *)index_get(&self->by_seq, seq);
}

static struct peer *
find_peer(const struct outstanding *self, uint64_t vmid)
{
    return (struct peer *)index_get(&self->peers, vmid);
}

/* The peer of this VMID, made if need be, with room for it in the index; NULL with MemoryError. */
static struct peer *
find_or_make_peer(struct outstanding *self, uint64_t vmid)
{
    struct peer *peer = find_peer(self, vmid);

    if (peer != NULL || index_reserve(&self->peers) < 0) {
        return peer;
    }
    peer = PyMem_Calloc(1, sizeof(*peer));
    if (peer == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    peer->node.key = vmid;
    ring_init(&peer->requests);
    index_put(&self->peers, &peer->node);
    return peer;
}

static void
drop_if_idle(struct outstanding *self, struct peer *peer)
{
    if (peer->count == 0) {
        index_remove(&self->peers, &peer->node);
        PyMem_Free(peer);
    }
}

/* Takes a request out of the table; its ticket becomes the caller's. */
static PyObject *
remove_request(struct outstanding *self, struct request *request)
{
    PyObject *ticket = request->ticket;
    struct peer *peer = request->peer;

    index_remove(&self->by_seq, &request->node);
    ring_remove(&request->by_peer);
    ring_remove(&request->by_age);
    PyMem_Free(request);
    peer->count--;
    drop_if_idle(self, peer);
    return ticket;
}

/* The requests of one peer, or of all if `vmid` is NULL. */
static Py_ssize_t
count_of(const struct outstanding *self, const uint64_t *vmid)
{
    if (vmid == NULL) {
        return (Py_ssize_t)self->by_seq.used;
    }
    const struct peer *peer = find_peer(self, *vmid);
    return peer == NULL ? 0 : peer->count;
}

static struct request *
oldest_of(const struct outstanding *self, const uint64_t *vmid)
{
    if (vmid == NULL) {
        return RING_MEMBER(self->by_age.next, struct request, by_age);
    }
    return RING_MEMBER(find_peer(self, *vmid)->requests.next, struct request, by_peer);
}

/* Takes them all out into a new list of their tickets. */
static PyObject *
remove_all(struct outstanding *self, const uint64_t *vmid)
{
    PyObject *tickets = PyList_New(count_of(self, vmid));

    /* Making a list may run the garbage collector, and with it finalizers that enter or take out
     * requests; then the list is made again. Nothing after it can fail or run Python code. */
    while (tickets != NULL && PyList_GET_SIZE(tickets) != count_of(self, vmid)) {
        Py_DECREF(tickets);
        tickets = PyList_New(count_of(self, vmid));
    }
    for (Py_ssize_t i = 0; tickets != NULL && i < PyList_GET_SIZE(tickets); i++) {
        PyList_SET_ITEM(tickets, i, remove_request(self, oldest_of(self, vmid)));
    }
    return tickets;
}

static PyObject *
outstanding_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    char *names[] = {NULL};

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Outstanding", names)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        ring_init(&as_outstanding(self)->by_age);
    }
    return self;
}

static int
outstanding_traverse(PyObject *object, visitproc visit, void *arg)
{
    const struct link *head = &as_outstanding(object)->by_age;

    Py_VISIT(Py_TYPE(object));
    for (const struct link *link = head->next; link != head; link = link->next) {
        Py_VISIT(RING_MEMBER(link, struct request, by_age)->ticket);
    }
    return 0;
}

static int
outstanding_clear(PyObject *object)
{
    struct outstanding *self = as_outstanding(object);
    const uint64_t last = self->last; /* what finalizers enter meanwhile stays */

    while (!ring_is_empty(&self->by_age) && oldest_of(self, NULL)->node.key <= last) {
        PyObject *ticket = remove_request(self, oldest_of(self, NULL));
        Py_DECREF(ticket);
    }
    return 0;
}

static void
outstanding_dealloc(PyObject *object)
{
    struct outstanding *self = as_outstanding(object);
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    outstanding_clear(object);
    index_free(&self->by_seq);
    index_free(&self->peers);
    type->tp_free(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(add_doc, "add($self, peer, ticket)\n--\n\n"
                      "Enter a request to this peer; its sequence number.");

static PyObject *
outstanding_add(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters wanted = {"add", 2, 2, {"peer", "ticket"}};
    struct outstanding *self = as_outstanding(object);
    PyObject *bound[MOST_PARAMETERS];
    uint64_t vmid;

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        as_unsigned(bound[0], "peer", UINT32_MAX, &vmid) < 0) {
        return NULL;
    }
    if (self->last == UINT64_MAX) {
        PyErr_SetString(PyExc_OverflowError, "every sequence number was used");
        return NULL;
    }
    PyObject *seq = PyLong_FromUnsignedLongLong(self->last + 1);
    if (seq == NULL || index_reserve(&self->by_seq) < 0) {
        goto failed;
    }
    struct peer *peer = find_or_make_peer(self, vmid);
    if (peer == NULL) {
        goto failed;
    }
    struct request *request = PyMem_Malloc(sizeof(*request));
    if (request == NULL) {
        drop_if_idle(self, peer);
        PyErr_NoMemory();
        goto failed;
    }
    request->node.key = ++self->last;
    request->peer = peer;
    request->ticket = Py_NewRef(bound[1]);
    index_put(&self->by_seq, &request->node);
    ring_append(&peer->requests, &request->by_peer);
    ring_append(&self->by_age, &request->by_age);
    peer->count++;
    return seq;
failed:
    Py_XDECREF(seq);
    return NULL;
}

PyDoc_STRVAR(take_doc, "take($self, seq, peer)\n--\n\n"
                       "Take out the ticket of a request that this peer answers. None if there "
                       "is no such request, or another peer was asked.");

static PyObject *
outstanding_take(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters wanted = {"take", 2, 2, {"seq", "peer"}};
    struct outstanding *self = as_outstanding(object);
    PyObject *bound[MOST_PARAMETERS];
    uint64_t seq;
    uint64_t vmid;

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        as_unsigned(bound[0], "seq", UINT64_MAX, &seq) < 0 ||
        as_unsigned(bound[1], "peer", UINT32_MAX, &vmid) < 0) {
        return NULL;
    }
    struct request *request = find_request(self, seq);
    if (request == NULL || request->peer->node.key != vmid) {
        Py_RETURN_NONE;
    }
    return remove_request(self, request);
}

PyDoc_STRVAR(discard_doc, "discard($self, seq, /)\n--\n\n"
                          "Withdraw a request; its ticket, or None if there is no such request.");

static PyObject *
outstanding_discard(PyObject *object, PyObject *argument)
{
    struct outstanding *self = as_outstanding(object);
    uint64_t seq;

    if (as_unsigned(argument, "seq", UINT64_MAX, &seq) < 0) {
        return NULL;
    }
    struct request *request = find_request(self, seq);
    if (request == NULL) {
        Py_RETURN_NONE;
    }
    return remove_request(self, request);
}

PyDoc_STRVAR(peer_of_doc, "peer_of($self, seq, /)\n--\n\n"
                          "The peer a request was asked of, or None if there is no such request.");

static PyObject *
outstanding_peer_of(PyObject *object, PyObject *argument)
{
    uint64_t seq;

    if (as_unsigned(argument, "seq", UINT64_MAX, &seq) < 0) {
        return NULL;
    }
    struct request *request = find_request(as_outstanding(object), seq);
    if (request == NULL) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(request->peer->node.key);
}

PyDoc_STRVAR(fail_peer_doc, "fail_peer($self, peer, /)\n--\n\n"
                            "Take out the tickets of all requests to this peer, oldest first.");

static PyObject *
outstanding_fail_peer(PyObject *object, PyObject *argument)
{
    uint64_t vmid;

    if (as_unsigned(argument, "peer", UINT32_MAX, &vmid) < 0) {
        return NULL;
    }
    return remove_all(as_outstanding(object), &vmid);
}

PyDoc_STRVAR(drain_doc, "drain($self, /)\n--\n\n"
                        "Take out all tickets, oldest first.");

static PyObject *
outstanding_drain(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return remove_all(as_outstanding(object), NULL);
}

static Py_ssize_t
outstanding_length(PyObject *object)
{
    return count_of(as_outstanding(object), NULL);
}

static PyObject *
outstanding_get_last(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(as_outstanding(object)->last);
}

static PyMethodDef outstanding_methods[] = {
    {"add", NATIVE_METHOD(outstanding_add), METH_FASTCALL | METH_KEYWORDS, add_doc},
    {"take", NATIVE_METHOD(outstanding_take), METH_FASTCALL | METH_KEYWORDS, take_doc},
    {"discard", outstanding_discard, METH_O, discard_doc},
    {"peer_of", outstanding_peer_of, METH_O, peer_of_doc},
    {"fail_peer", outstanding_fail_peer, METH_O, fail_peer_doc},
    {"drain", outstanding_drain, METH_NOARGS, drain_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef outstanding_attributes[] = {
    {"last", outstanding_get_last, NULL, "The last sequence number given out, 0 before.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(outstanding_doc, "Outstanding()\n--\n\n"
                              "The requests that are not answered yet: number, peer and ticket.");

static PyType_Slot outstanding_slots[] = {
    {Py_tp_doc, (void *)outstanding_doc},
    {Py_tp_new, outstanding_new},
    {Py_tp_dealloc, outstanding_dealloc},
    {Py_tp_traverse, outstanding_traverse},
    {Py_tp_clear, outstanding_clear},
    {Py_tp_methods, outstanding_methods},
    {Py_tp_getset, outstanding_attributes},
    {Py_sq_length, outstanding_length},
    {0, NULL},
};

static PyType_Spec outstanding_spec = {
    .name = "libos_ipc._native.Outstanding",
    .basicsize = sizeof(struct outstanding),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = outstanding_slots,
};

int
calls_setup(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &outstanding_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    const int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}
