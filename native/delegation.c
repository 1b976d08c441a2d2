#include "delegation.h"

#include "arguments.h"

static const uint64_t MOST_KINDS = 15;

struct delegation {
    PyObject_HEAD
    Py_buffer memory; /* .obj is NULL once closed */
    struct lock_slot *slot;
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
        (size_t)(self->memory.len - offset) < sizeof(struct lock_slot) ||
        place % _Alignof(struct lock_slot) != 0) {
        PyErr_Format(PyExc_ValueError, "no slot fits into %zd bytes at %zd", self->memory.len,
                     offset);
        Py_DECREF(self);
        return NULL;
    }
    self->slot = (struct lock_slot *)((char *)self->memory.buf + offset);
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

/* The type is not subclassable, and known by what ends it. */
struct lock_slot *
delegation_slot(PyObject *object)
{
    const bool is_one = Py_TYPE(object)->tp_dealloc == delegation_dealloc;
    return is_one ? delegation_of(object)->slot : NULL;
}

static struct lock_slot *
open_slot(PyObject *self)
{
    struct lock_slot *slot = delegation_of(self)->slot;
    if (slot == NULL) {
        PyErr_SetString(PyExc_ValueError, "the delegation is closed");
    }
    return slot;
}

PyDoc_STRVAR(set_doc,
             "set($self, kind, handle, type, start, end, thread, descriptor, duplicate, /)\n--\n\n"
             "Lock a range, or unlock it: the number of the grant, 0 for unlocking, or one of GONE, "
             "BUSY and FULL.");

static PyObject *
delegation_set(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct lock_entry wanted = {0};
    uint64_t kind, type, thread;
    int64_t descriptor, duplicate;
    struct lock_slot *slot = open_slot(self);

    if (slot == NULL || require_count("set", nargs, 8) < 0 ||
        as_unsigned(args[0], "kind", MOST_KINDS, &kind) < 0 ||
        as_unsigned(args[1], "handle", UINT64_MAX, &wanted.handle) < 0 ||
        as_unsigned(args[2], "type", SLOT_NONE, &type) < 0 ||
        as_unsigned(args[3], "start", INT64_MAX, &wanted.start) < 0 ||
        as_unsigned(args[4], "end", INT64_MAX, &wanted.end) < 0 ||
        as_unsigned(args[5], "thread", UINT32_MAX, &thread) < 0 ||
        as_signed(args[6], "descriptor", -1, INT32_MAX, &descriptor) < 0 ||
        as_signed(args[7], "duplicate", -1, INT32_MAX, &duplicate) < 0) {
        return NULL;
    }
    if (wanted.start > wanted.end) {
        PyErr_SetString(PyExc_ValueError, "a range that ends before it begins");
        return NULL;
    }
    wanted.kind = (uint32_t)kind;
    wanted.type = (uint32_t)type;
    wanted.thread = (uint32_t)thread;
    wanted.descriptor = (int32_t)descriptor;
    wanted.duplicate = (int32_t)duplicate;
    return PyLong_FromLongLong(lock_slot_set(slot, &wanted));
}

/* (next number, an entry's fields each), of a table that may be hostile. */
static PyObject *
contents(const struct lock_table *table)
{
    PyObject *entries = PyTuple_New((Py_ssize_t)table->count);

    for (uint64_t i = 0; entries != NULL && i < table->count; i++) {
        const struct lock_entry *entry = &table->entries[i];
        PyObject *row = Py_BuildValue("IKIKKKIii", entry->kind, entry->handle, entry->type,
                                      entry->start, entry->end, entry->number, entry->thread,
                                      entry->descriptor, entry->duplicate);
        if (row == NULL) {
            Py_CLEAR(entries);
            break;
        }
        PyTuple_SET_ITEM(entries, (Py_ssize_t)i, row);
    }
    return entries == NULL ? NULL : Py_BuildValue("KN", table->next, entries);
}

PyDoc_STRVAR(begin_doc, "begin($self, first, last, /)\n--\n\n"
                        "Give an empty table to the holder, with these numbers for its grants.");

static PyObject *
delegation_begin(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t first, last;
    struct lock_slot *slot = open_slot(self);

    if (slot == NULL || require_count("begin", nargs, 2) < 0 ||
        as_unsigned(args[0], "first", INT64_MAX, &first) < 0 ||
        as_unsigned(args[1], "last", INT64_MAX, &last) < 0) {
        return NULL;
    }
    lock_slot_begin(slot, first, last);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(recall_doc, "recall($self, /)\n--\n\n"
                         "Take the file back: the next number, and what the holder has locked.");

static PyObject *
delegation_recall(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct lock_slot *slot = open_slot(self);
    if (slot == NULL) {
        return NULL;
    }
    struct lock_table found;
    lock_slot_recall(slot, &found);
    return contents(&found);
}

PyDoc_STRVAR(look_doc, "look($self, /)\n--\n\n"
                       "What `recall` would find, while the holder goes on.");

static PyObject *
delegation_look(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct lock_slot *slot = open_slot(self);
    if (slot == NULL) {
        return NULL;
    }
    struct lock_table found;
    lock_slot_look(slot, &found);
    return contents(&found);
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
    {"set", NATIVE_METHOD(delegation_set), METH_FASTCALL, set_doc},
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
    if (native_add_type(module, &delegation_spec) < 0 ||
        PyModule_AddIntConstant(module, "SLOT_BYTES", sizeof(struct lock_slot)) < 0 ||
        PyModule_AddIntConstant(module, "GONE", SLOT_GONE) < 0 ||
        PyModule_AddIntConstant(module, "BUSY", SLOT_BUSY) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "FULL", SLOT_FULL);
}
