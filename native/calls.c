#include "calls.h"

#include "arguments.h"

struct outstanding {
    PyObject_HEAD
    struct requests requests;
};

static struct requests *
requests_of(PyObject *self)
{
    return &((struct outstanding *)self)->requests;
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
        requests_init(requests_of(self));
    }
    return self;
}

static int
outstanding_traverse(PyObject *self, visitproc visit, void *arg)
{
    const struct link *head = &requests_of(self)->by_age;

    Py_VISIT(Py_TYPE(self));
    for (const struct link *link = head->next; link != head; link = link->next) {
        Py_VISIT(RING_MEMBER(link, struct request, by_age)->ticket);
    }
    return 0;
}

static int
outstanding_clear(PyObject *self)
{
    struct requests *table = requests_of(self);
    const uint64_t last = table->last; /* what finalizers enter meanwhile stays */

    while (requests_count(table, NULL) > 0 && requests_oldest(table, NULL)->node.key <= last) {
        PyObject *ticket = requests_remove(table, requests_oldest(table, NULL));
        Py_DECREF(ticket);
    }
    return 0;
}

static void
outstanding_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    outstanding_clear(self);
    requests_free(requests_of(self));
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
struct requests *
outstanding_table(PyObject *object)
{
    if (Py_TYPE(object)->tp_dealloc != outstanding_dealloc) {
        PyErr_Format(PyExc_TypeError, "requests must be Outstanding, not %.100s",
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    return requests_of(object);
}

PyDoc_STRVAR(add_doc, "add($self, peer, ticket)\n--\n\n"
                      "Enter a request to this peer; its sequence number.");

static PyObject *
outstanding_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters wanted = {"add", 2, 2, {"peer", "ticket"}};
    struct requests *table = requests_of(self);
    PyObject *bound[MOST_PARAMETERS];
    uint64_t vmid;

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        as_unsigned(bound[0], "peer", UINT32_MAX, &vmid) < 0) {
        return NULL;
    }
    if (table->last == UINT64_MAX) {
        PyErr_SetString(PyExc_OverflowError, "every sequence number was used");
        return NULL;
    }
    /* Made first: once the request is in the table, nothing may fail. */
    PyObject *seq = PyLong_FromUnsignedLongLong(table->last + 1);
    if (seq != NULL && requests_add(table, vmid, bound[1]) < 0) {
        Py_CLEAR(seq);
    }
    return seq;
}

PyDoc_STRVAR(take_doc, "take($self, seq, peer)\n--\n\n"
                       "Take out the ticket of a request that this peer answers. None if there "
                       "is no such request, or another peer was asked.");

static PyObject *
outstanding_take(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters wanted = {"take", 2, 2, {"seq", "peer"}};
    struct requests *table = requests_of(self);
    PyObject *bound[MOST_PARAMETERS];
    uint64_t seq;
    uint64_t vmid;

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        as_unsigned(bound[0], "seq", UINT64_MAX, &seq) < 0 ||
        as_unsigned(bound[1], "peer", UINT32_MAX, &vmid) < 0) {
        return NULL;
    }
    struct request *request = requests_find(table, seq);
    if (request == NULL || request->peer->node.key != vmid) {
        Py_RETURN_NONE;
    }
    return requests_remove(table, request);
}

PyDoc_STRVAR(discard_doc, "discard($self, seq, /)\n--\n\n"
                          "Withdraw a request; its ticket, or None if there is no such request.");

static PyObject *
outstanding_discard(PyObject *self, PyObject *argument)
{
    uint64_t seq;

    if (as_unsigned(argument, "seq", UINT64_MAX, &seq) < 0) {
        return NULL;
    }
    struct request *request = requests_find(requests_of(self), seq);
    if (request == NULL) {
        Py_RETURN_NONE;
    }
    return requests_remove(requests_of(self), request);
}

PyDoc_STRVAR(peer_of_doc, "peer_of($self, seq, /)\n--\n\n"
                          "The peer a request was asked of, or None if there is no such request.");

static PyObject *
outstanding_peer_of(PyObject *self, PyObject *argument)
{
    uint64_t seq;

    if (as_unsigned(argument, "seq", UINT64_MAX, &seq) < 0) {
        return NULL;
    }
    const struct request *request = requests_find(requests_of(self), seq);
    if (request == NULL) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(request->peer->node.key);
}

/* Takes out all requests of one peer, or all if `vmid` is NULL, into a new list of tickets. */
static PyObject *
take_all(struct requests *table, const uint64_t *vmid)
{
    PyObject *tickets = PyList_New(requests_count(table, vmid));

    /* Making a list may run the garbage collector, and with it finalizers that enter or take out
     * requests; then the list is made again. Nothing after it can fail or run Python code. */
    while (tickets != NULL && PyList_GET_SIZE(tickets) != requests_count(table, vmid)) {
        Py_DECREF(tickets);
        tickets = PyList_New(requests_count(table, vmid));
    }
    for (Py_ssize_t i = 0; tickets != NULL && i < PyList_GET_SIZE(tickets); i++) {
        PyList_SET_ITEM(tickets, i, requests_remove(table, requests_oldest(table, vmid)));
    }
    return tickets;
}

PyDoc_STRVAR(fail_peer_doc, "fail_peer($self, peer, /)\n--\n\n"
                            "Take out the tickets of all requests to this peer, in the order in which"
                            " they were given to it.");

static PyObject *
outstanding_fail_peer(PyObject *self, PyObject *argument)
{
    uint64_t vmid;

    if (as_unsigned(argument, "peer", UINT32_MAX, &vmid) < 0) {
        return NULL;
    }
    return take_all(requests_of(self), &vmid);
}

/* A list of (number, ticket). Making it may run the garbage collector, and with it finalizers that
 * take requests out: so each is looked for again by its number. */
static PyObject *
pairs_of(const struct requests *table, const uint64_t *seqs, Py_ssize_t count)
{
    PyObject *pairs = PyList_New(0);

    for (Py_ssize_t i = 0; pairs != NULL && i < count; i++) {
        const struct request *request = requests_find(table, seqs[i]);
        if (request == NULL) {
            continue;
        }
        PyObject *ticket = Py_NewRef(request->ticket);
        PyObject *pair = Py_BuildValue("KN", (unsigned long long)seqs[i], ticket);
        if (pair == NULL || PyList_Append(pairs, pair) < 0) {
            Py_CLEAR(pairs);
        }
        Py_XDECREF(pair);
    }
    return pairs;
}

PyDoc_STRVAR(of_peer_doc, "of_peer($self, peer, /)\n--\n\n"
                          "Number and ticket of each request to this peer, in that order. They stay.");

static PyObject *
outstanding_of_peer(PyObject *self, PyObject *argument)
{
    const struct requests *table = requests_of(self);
    uint64_t vmid;

    if (as_unsigned(argument, "peer", UINT32_MAX, &vmid) < 0) {
        return NULL;
    }
    const Py_ssize_t count = requests_count(table, &vmid);
    uint64_t *seqs = PyMem_Calloc((size_t)count + 1, sizeof *seqs);
    if (seqs == NULL) {
        return PyErr_NoMemory();
    }
    requests_list(table, vmid, seqs);
    PyObject *pairs = pairs_of(table, seqs, count);
    PyMem_Free(seqs);
    return pairs;
}

PyDoc_STRVAR(move_doc, "move($self, seq, peer)\n--\n\n"
                       "Another peer is to answer this request. False if there is no such request.");

static PyObject *
outstanding_move(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct requests *table = requests_of(self);
    uint64_t seq, vmid;

    if (require_count("move", nargs, 2) < 0 ||
        as_unsigned(args[0], "seq", UINT64_MAX, &seq) < 0 ||
        as_unsigned(args[1], "peer", UINT32_MAX, &vmid) < 0) {
        return NULL;
    }
    struct request *request = requests_find(table, seq);
    if (request != NULL && requests_move(table, request, vmid) < 0) {
        return NULL;
    }
    return PyBool_FromLong(request != NULL);
}

PyDoc_STRVAR(drain_doc, "drain($self, /)\n--\n\n"
                        "Take out all tickets, oldest first.");

static PyObject *
outstanding_drain(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return take_all(requests_of(self), NULL);
}

static Py_ssize_t
outstanding_length(PyObject *self)
{
    return requests_count(requests_of(self), NULL);
}

static PyObject *
outstanding_get_last(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(requests_of(self)->last);
}

static PyMethodDef outstanding_methods[] = {
    {"add", NATIVE_METHOD(outstanding_add), METH_FASTCALL | METH_KEYWORDS, add_doc},
    {"take", NATIVE_METHOD(outstanding_take), METH_FASTCALL | METH_KEYWORDS, take_doc},
    {"discard", outstanding_discard, METH_O, discard_doc},
    {"peer_of", outstanding_peer_of, METH_O, peer_of_doc},
    {"fail_peer", outstanding_fail_peer, METH_O, fail_peer_doc},
    {"of_peer", outstanding_of_peer, METH_O, of_peer_doc},
    {"move", NATIVE_METHOD(outstanding_move), METH_FASTCALL, move_doc},
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
    return native_add_type(module, &outstanding_spec);
}
