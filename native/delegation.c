#include "delegation.h"

#include "arguments.h"

#include <stdatomic.h>
#include <string.h>

enum { MOST_ENTRIES = 4, READ = 0, WRITE = 1 };

struct entry {
    uint64_t handle;
    uint64_t start;
    uint64_t end;
    uint64_t number;
    uint32_t type;
    uint32_t thread;
};

struct table {
    uint64_t count;
    uint64_t next; /* the number of the next grant */
    uint64_t last; /* the last number that may be given */
    struct entry entries[MOST_ENTRIES];
};

struct slot {
    _Atomic uint64_t word;
    struct table tables[2];
};

static const uint64_t TAKEN_BACK = 1;
static const uint64_t WHICH = 2;
static const uint64_t VERSION = 4;

/* What `take` and `give` say besides a number. */
enum { GONE = -1, BUSY = -2, FULL = -3 };

struct delegation {
    PyObject_HEAD
    Py_buffer memory; /* .obj is NULL once closed */
    struct slot *slot;
};

static struct delegation *
delegation_of(PyObject *self)
{
    return (struct delegation *)self;
}

static PyObject *
delegation_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "offset", NULL};
    PyObject *memory;
    Py_ssize_t offset;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On:Delegation", names, &memory, &offset)) {
        return NULL;
    }
    struct delegation *self = (struct delegation *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    const uintptr_t place = (uintptr_t)self->memory.buf + (uintptr_t)offset;
    if (offset < 0 || self->memory.len < offset ||
        (size_t)(self->memory.len - offset) < sizeof(struct slot) ||
        place % _Alignof(struct slot) != 0) {
        PyErr_Format(PyExc_ValueError, "no slot fits into %zd bytes at %zd", self->memory.len,
                     offset);
        Py_DECREF(self);
        return NULL;
    }
    self->slot = (struct slot *)((char *)self->memory.buf + offset);
    return (PyObject *)self;
}

static void
release_memory(struct delegation *self)
{
    self->slot = NULL;
    if (self->memory.obj != NULL) {
        PyBuffer_Release(&self->memory);
    }
}

static void
delegation_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    release_memory(delegation_of(self));
    type->tp_free(self);
    Py_DECREF(type);
}

static struct slot *
open_slot(PyObject *self)
{
    struct slot *slot = delegation_of(self)->slot;
    if (slot == NULL) {
        PyErr_SetString(PyExc_ValueError, "the delegation is closed");
    }
    return slot;
}

static uint64_t
count_of(const struct table *table)
{
    const uint64_t count = *(const volatile uint64_t *)&table->count;
    return count < MOST_ENTRIES ? count : MOST_ENTRIES;
}

/* Makes the other table count, if the file has not been taken back since `word` was read. */
static bool
swing(struct slot *slot, uint64_t word)
{
    const uint64_t next = (word + VERSION) ^ WHICH;
    return atomic_compare_exchange_strong_explicit(&slot->word, &word, next,
                                                   memory_order_release, memory_order_relaxed);
}

static struct table *
table_of(struct slot *slot, uint64_t word)
{
    return &slot->tables[(word & WHICH) != 0];
}

static struct table *
copy_table(struct slot *slot, uint64_t word)
{
    struct table *other = table_of(slot, word ^ WHICH);
    memcpy(other, table_of(slot, word), sizeof *other);
    return other;
}

/* The place of this handle's entry, or the number of entries if it has none. */
static uint64_t
find_entry(const struct table *table, uint64_t handle)
{
    const uint64_t count = count_of(table);
    uint64_t i = 0;
    while (i < count && table->entries[i].handle != handle) {
        i++;
    }
    return i;
}

static bool
is_in_the_way(const struct table *table, const struct entry *wanted)
{
    for (uint64_t i = 0; i < count_of(table); i++) {
        const struct entry *held = &table->entries[i];
        if (held->handle != wanted->handle && held->start <= wanted->end &&
            wanted->start <= held->end && (held->type == WRITE || wanted->type == WRITE)) {
            return true;
        }
    }
    return false;
}

static long long
take(struct slot *slot, struct entry *wanted)
{
    const uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
    if (word & TAKEN_BACK) {
        return GONE;
    }
    const struct table *now = table_of(slot, word);
    if (is_in_the_way(now, wanted)) {
        return BUSY;
    }
    const uint64_t place = find_entry(now, wanted->handle);
    if (place == MOST_ENTRIES || now->next > now->last) {
        return FULL;
    }
    struct table *next = copy_table(slot, word);
    wanted->number = next->next++;
    next->entries[place] = *wanted;
    if (place == count_of(next)) {
        next->count = place + 1;
    }
    return swing(slot, word) ? (long long)wanted->number : GONE;
}

PyDoc_STRVAR(take_doc, "take($self, handle, type, start, end, thread, /)\n--\n\n"
                       "Lock a range: the number of the grant, or one of GONE, BUSY and FULL.");

static PyObject *
delegation_take(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct entry wanted = {0};
    uint64_t type, thread;
    struct slot *slot = open_slot(self);

    if (slot == NULL || require_count("take", nargs, 5) < 0 ||
        as_unsigned(args[0], "handle", UINT64_MAX, &wanted.handle) < 0 ||
        as_unsigned(args[1], "type", WRITE, &type) < 0 ||
        as_unsigned(args[2], "start", INT64_MAX, &wanted.start) < 0 ||
        as_unsigned(args[3], "end", INT64_MAX, &wanted.end) < 0 ||
        as_unsigned(args[4], "thread", UINT32_MAX, &thread) < 0) {
        return NULL;
    }
    wanted.type = (uint32_t)type;
    wanted.thread = (uint32_t)thread;
    return PyLong_FromLongLong(take(slot, &wanted));
}

PyDoc_STRVAR(give_doc, "give($self, handle, /)\n--\n\n"
                       "Unlock what this handle has: 0, or GONE if the leader has it by now.");

static PyObject *
delegation_give(PyObject *self, PyObject *number)
{
    uint64_t handle;
    struct slot *slot = open_slot(self);

    if (slot == NULL || as_unsigned(number, "handle", UINT64_MAX, &handle) < 0) {
        return NULL;
    }
    const uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
    if (word & TAKEN_BACK) {
        return PyLong_FromLong(GONE);
    }
    const struct table *now = table_of(slot, word);
    const uint64_t place = find_entry(now, handle), count = count_of(now);
    if (place == count) {
        return PyLong_FromLong(0);
    }
    struct table *next = copy_table(slot, word);
    next->entries[place] = next->entries[count - 1];
    next->count = count - 1;
    return PyLong_FromLong(swing(slot, word) ? 0 : GONE);
}

/* (next number, ((handle, type, start, end, number, thread), …)) of a table that may be hostile. */
static PyObject *
contents(const struct table *shared)
{
    struct table table;
    memcpy(&table, shared, sizeof table);
    const uint64_t count = count_of(&table);
    PyObject *entries = PyTuple_New((Py_ssize_t)count);

    for (uint64_t i = 0; entries != NULL && i < count; i++) {
        const struct entry *entry = &table.entries[i];
        PyObject *row = Py_BuildValue("KIKKKI", entry->handle, entry->type, entry->start,
                                      entry->end, entry->number, entry->thread);
        if (row == NULL) {
            Py_CLEAR(entries);
            break;
        }
        PyTuple_SET_ITEM(entries, (Py_ssize_t)i, row);
    }
    return entries == NULL ? NULL : Py_BuildValue("KN", table.next, entries);
}

PyDoc_STRVAR(begin_doc, "begin($self, first, last, /)\n--\n\n"
                        "Give an empty table to the holder, with these numbers for its grants.");

static PyObject *
delegation_begin(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t first, last;
    struct slot *slot = open_slot(self);

    if (slot == NULL || require_count("begin", nargs, 2) < 0 ||
        as_unsigned(args[0], "first", INT64_MAX, &first) < 0 ||
        as_unsigned(args[1], "last", INT64_MAX, &last) < 0) {
        return NULL;
    }
    /* Nobody else writes here: the last holder has been told no, and the next not yet yes. */
    const uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
    const uint64_t next = ((word + VERSION) & ~TAKEN_BACK) ^ WHICH;
    struct table *table = table_of(slot, next);
    memset(table, 0, sizeof *table);
    table->next = first;
    table->last = last;
    atomic_store_explicit(&slot->word, next, memory_order_release);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(recall_doc, "recall($self, /)\n--\n\n"
                         "Take the file back: the next number, and what the holder has locked.");

static PyObject *
delegation_recall(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct slot *slot = open_slot(self);
    if (slot == NULL) {
        return NULL;
    }
    const uint64_t word =
        atomic_fetch_or_explicit(&slot->word, TAKEN_BACK, memory_order_acq_rel);
    return contents(table_of(slot, word));
}

PyDoc_STRVAR(look_doc, "look($self, /)\n--\n\n"
                       "What `recall` would find, while the holder goes on.");

static PyObject *
delegation_look(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct slot *slot = open_slot(self);
    if (slot == NULL) {
        return NULL;
    }
    for (int attempt = 0;; attempt++) {
        const uint64_t word = atomic_load_explicit(&slot->word, memory_order_acquire);
        PyObject *found = contents(table_of(slot, word));
        atomic_thread_fence(memory_order_acquire);
        const uint64_t then = atomic_load_explicit(&slot->word, memory_order_relaxed);
        if (found == NULL || attempt == 3 || (then | TAKEN_BACK) == (word | TAKEN_BACK)) {
            return found;
        }
        Py_DECREF(found);
    }
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Let go of the memory. ValueError from all methods from then on.");

static PyObject *
delegation_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    release_memory(delegation_of(self));
    Py_RETURN_NONE;
}

static PyMethodDef delegation_methods[] = {
    {"take", NATIVE_METHOD(delegation_take), METH_FASTCALL, take_doc},
    {"give", delegation_give, METH_O, give_doc},
    {"begin", NATIVE_METHOD(delegation_begin), METH_FASTCALL, begin_doc},
    {"recall", delegation_recall, METH_NOARGS, recall_doc},
    {"look", delegation_look, METH_NOARGS, look_doc},
    {"close", delegation_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(delegation_doc, "Delegation(memory, offset)\n--\n\n"
                             "A slot in shared memory by which one process locks a file alone.");

static PyType_Slot delegation_slots[] = {
    {Py_tp_doc, (void *)delegation_doc},
    {Py_tp_new, delegation_new},
    {Py_tp_dealloc, delegation_dealloc},
    {Py_tp_methods, delegation_methods},
    {0, NULL},
};

static PyType_Spec delegation_spec = {
    .name = "libos_ipc._native.Delegation",
    .basicsize = sizeof(struct delegation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = delegation_slots,
};

int
delegation_setup(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &delegation_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    const int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    if (added < 0 || PyModule_AddIntConstant(module, "SLOT_BYTES", sizeof(struct slot)) < 0 ||
        PyModule_AddIntMacro(module, GONE) < 0 || PyModule_AddIntMacro(module, BUSY) < 0) {
        return -1;
    }
    return PyModule_AddIntMacro(module, FULL);
}
