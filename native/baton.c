#include "baton.h"

#include "arguments.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

enum { ENDED = 1, IN_USE = 2, RESERVED = 4, HALF = 8, HOLDER_AT = 4, NUMBER_AT = 36 };
/* Between two of them it may be reserved for us, and ended between the next two. */
enum { LOOKS = 3 };

static const uint64_t LAST_NUMBER = (UINT64_C(1) << (64 - NUMBER_AT)) - 1;
/* The version of a value is cut down to this: whoever took it can still count on from there. */
static const uint64_t LAST_VERSION = UINT64_MAX >> 2;

struct half {
    uint64_t version;
    uint32_t size;
    uint32_t reserved;
    unsigned char data[BATON_BYTES];
};

/* In shared memory, zeroed to begin with. */
struct place {
    _Alignas(64) _Atomic uint64_t word;
    struct half halves[2];
};

struct baton {
    PyObject_HEAD
    Py_buffer memory;
    struct place *place; /* NULL when it was released: then everything is as if it were ended */
    uint64_t number;
    uint64_t me; /* VMID of the process whose baton this is */
};

static struct baton *
baton_at(PyObject *self)
{
    return (struct baton *)self;
}

/* ---- the word */

static uint64_t
holder_in(uint64_t word)
{
    return word >> HOLDER_AT & UINT32_MAX;
}

/* Nobody's, or that of this holder, who has it as `flags` say; the half stays. */
static uint64_t
word_for(const struct baton *baton, uint64_t word, uint64_t holder, uint64_t flags)
{
    return baton->number << NUMBER_AT | holder << HOLDER_AT | (word & HALF) | flags;
}

static bool
swing(struct baton *baton, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(&baton->place->word, &from, to,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

static uint64_t
word_now(const struct baton *baton)
{
    return baton->place == NULL ? ENDED
                                : atomic_load_explicit(&baton->place->word, memory_order_acquire);
}

static struct half *
half_in(const struct baton *baton, uint64_t word)
{
    return &baton->place->halves[(word & HALF) != 0];
}

bool
baton_take(struct baton *baton)
{
    for (int look = 0; look < LOOKS; look++) {
        const uint64_t word = word_now(baton);
        const uint64_t free = word_for(baton, word, 0, 0);
        const uint64_t ours = word_for(baton, word, baton->me, RESERVED);

        if (word == (ours | ENDED)) {
            return baton->place != NULL;
        }
        if (word != free && word != ours) {
            return false;
        }
        if (swing(baton, word, word_for(baton, word, baton->me, IN_USE))) {
            return true;
        }
    }
    return false;
}

static uint64_t
value_in(const struct baton *baton, uint64_t word, const void **data, size_t *size)
{
    const struct half *half = half_in(baton, word);
    const uint32_t there = *(const volatile uint32_t *)&half->size;

    *data = half->data;
    *size = there <= BATON_BYTES ? there : BATON_BYTES;
    return *(const volatile uint64_t *)&half->version & LAST_VERSION;
}

uint64_t
baton_value(const struct baton *baton, const void **data, size_t *size)
{
    return value_in(baton, word_now(baton), data, size);
}

static void
fill(struct half *half, uint64_t version, const void *data, size_t size)
{
    half->version = version;
    half->size = (uint32_t)size;
    memcpy(half->data, data, size);
}

bool
baton_give(struct baton *baton, uint64_t version, const void *data, size_t size)
{
    const uint64_t now = word_now(baton);
    const uint64_t ours = word_for(baton, now, baton->me, IN_USE);
    uint64_t then = word_for(baton, now, 0, 0);

    if (now != ours) {
        return false;
    }
    if (data != NULL) {
        then ^= HALF;
        fill(half_in(baton, then), version, data, size);
    }
    return swing(baton, ours, then);
}

/* ---- for Python */

/* (version, bytes) of the half that this word names. */
static PyObject *
value_as_tuple(const struct baton *baton, uint64_t word)
{
    const void *data;
    size_t size;
    const uint64_t version = value_in(baton, word, &data, &size);

    return Py_BuildValue("Ky#", (unsigned long long)version, (const char *)data, (Py_ssize_t)size);
}

PyDoc_STRVAR(take_doc, "take($self, /)\n--\n\n"
                       "Take EXCLUSIVE: (version, bytes), or None if it is not to be had.");

static PyObject *
baton_take_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct baton *baton = baton_at(self);

    if (!baton_take(baton)) {
        Py_RETURN_NONE;
    }
    PyObject *value = value_as_tuple(baton, word_now(baton));
    if (value == NULL) {
        baton_give(baton, 0, NULL, 0);
    }
    return value;
}

/* The version and the bytes of a value that fits. -1 with an exception, which says what is wrong. */
static int
as_value(PyObject *const *args, uint64_t *version)
{
    if (as_unsigned(args[0], "version", UINT64_MAX, version) < 0) {
        return -1;
    }
    if (!PyBytes_Check(args[1]) || PyBytes_GET_SIZE(args[1]) > BATON_BYTES) {
        PyErr_Format(PyExc_ValueError, "a value is at most %d bytes", BATON_BYTES);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(give_doc, "give($self, version=0, data=None, /)\n--\n\n"
                       "Give EXCLUSIVE back, with a new value if there is one. False if the baton was "
                       "ended: nothing is committed.");

static PyObject *
baton_give_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct baton *baton = baton_at(self);
    uint64_t version = 0;

    if (nargs == 0) {
        return PyBool_FromLong(baton_give(baton, 0, NULL, 0));
    }
    if (require_count("give", nargs, 2) < 0 || as_value(args, &version) < 0) {
        return NULL;
    }
    return PyBool_FromLong(baton_give(baton, version, PyBytes_AS_STRING(args[1]),
                                      (size_t)PyBytes_GET_SIZE(args[1])));
}

PyDoc_STRVAR(begin_doc,
             "begin($self, version, data, holder, /)\n--\n\n"
             "The leader, in a place that is in no use: begin, reserved for this process, under a number "
             "that is returned; 0 when the place has had its last.");

static PyObject *
baton_begin(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct baton *baton = baton_at(self);
    uint64_t version, holder;

    if (require_count("begin", nargs, 3) < 0 || as_value(args, &version) < 0 ||
        as_unsigned(args[2], "holder", UINT32_MAX, &holder) < 0) {
        return NULL;
    }
    if (baton->place == NULL || baton->number >= LAST_NUMBER) {
        return PyLong_FromLong(0);
    }
    baton->number++;
    fill(&baton->place->halves[0], version, PyBytes_AS_STRING(args[1]),
         (size_t)PyBytes_GET_SIZE(args[1]));
    atomic_store_explicit(&baton->place->word, word_for(baton, 0, holder, RESERVED),
                          memory_order_release);
    return PyLong_FromUnsignedLongLong(baton->number);
}

PyDoc_STRVAR(reserve_doc, "reserve($self, holder, /)\n--\n\n"
                          "The leader: reserve EXCLUSIVE for this process. False if it is not free.");

static PyObject *
baton_reserve(PyObject *self, PyObject *argument)
{
    struct baton *baton = baton_at(self);
    uint64_t holder;

    if (as_unsigned(argument, "holder", UINT32_MAX, &holder) < 0) {
        return NULL;
    }
    const uint64_t word = word_now(baton);
    return PyBool_FromLong(word == word_for(baton, word, 0, 0) &&
                           swing(baton, word, word_for(baton, word, holder, RESERVED)));
}

PyDoc_STRVAR(ended_doc, "ended($self, /)\n--\n\nWhether it has been ended.");

static PyObject *
baton_ended(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const uint64_t word = word_now(baton_at(self));

    return PyBool_FromLong((word & ENDED) != 0 || word >> NUMBER_AT != baton_at(self)->number);
}

PyDoc_STRVAR(end_doc, "end($self, /)\n--\n\n"
                      "End it, if that has not happened: (who has EXCLUSIVE, or 0; whether it is in "
                      "use; (version, bytes)); None if the place has another number by now.");

static PyObject *
baton_end(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct baton *baton = baton_at(self);
    uint64_t word = word_now(baton);

    if (baton->place == NULL) {
        Py_RETURN_NONE;
    }
    while (word >> NUMBER_AT == baton->number && (word & ENDED) == 0) {
        if (atomic_compare_exchange_weak(&baton->place->word, &word, word | ENDED)) {
            word |= ENDED;
        }
    }
    if (word >> NUMBER_AT != baton->number) {
        Py_RETURN_NONE;
    }
    const bool in_use = (word & IN_USE) != 0;
    const uint64_t holder = in_use || (word & RESERVED) != 0 ? holder_in(word) : 0;
    return Py_BuildValue("KNN", (unsigned long long)holder, PyBool_FromLong(in_use),
                         value_as_tuple(baton, word));
}

PyDoc_STRVAR(release_doc, "release($self, /)\n--\n\n"
                          "Let go of the memory: from now on it is as if it were ended.");

static PyObject *
baton_release(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    baton_at(self)->place = NULL;
    PyBuffer_Release(&baton_at(self)->memory);
    Py_RETURN_NONE;
}

/* ---- the object */

static PyObject *
baton_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "index", "number", "me", NULL};
    PyObject *memory;
    Py_ssize_t index;
    unsigned long long number;
    unsigned int me;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnKI:Baton", names, &memory, &index, &number,
                                     &me)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    struct baton *baton = baton_at(self);
    if (PyObject_GetBuffer(memory, &baton->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    struct place *first = baton->memory.buf;
    const Py_ssize_t count = baton->memory.len / (Py_ssize_t)sizeof *first;
    if (index < 0 || index >= count || number > LAST_NUMBER ||
        (uintptr_t)first % _Alignof(struct place) != 0) {
        PyErr_Format(PyExc_ValueError, "no baton %llu is at %zd of %zd", number, index, count);
        Py_DECREF(self);
        return NULL;
    }
    baton->place = first + index;
    baton->number = number;
    baton->me = me;
    return self;
}

static void
baton_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyBuffer_Release(&baton_at(self)->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
struct baton *
baton_of(PyObject *object)
{
    const bool is_one = object != NULL && Py_TYPE(object)->tp_dealloc == baton_dealloc;
    return is_one ? baton_at(object) : NULL;
}

static PyMethodDef baton_methods[] = {
    {"take", baton_take_method, METH_NOARGS, take_doc},
    {"give", NATIVE_METHOD(baton_give_method), METH_FASTCALL, give_doc},
    {"begin", NATIVE_METHOD(baton_begin), METH_FASTCALL, begin_doc},
    {"reserve", baton_reserve, METH_O, reserve_doc},
    {"ended", baton_ended, METH_NOARGS, ended_doc},
    {"end", baton_end, METH_NOARGS, end_doc},
    {"release", baton_release, METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef baton_members[] = {
    {"me", T_ULONGLONG, offsetof(struct baton, me), READONLY,
     "VMID of the process whose baton this is."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(baton_doc, "Baton(memory, index, number, me)\n--\n\n"
                        "The baton in the place of this index, as process `me` has it; see "
                        "native/baton.h.");

static PyType_Slot baton_slots[] = {
    {Py_tp_doc, (void *)baton_doc},
    {Py_tp_new, baton_new},
    {Py_tp_dealloc, baton_dealloc},
    {Py_tp_methods, baton_methods},
    {Py_tp_members, baton_members},
    {0, NULL},
};

static PyType_Spec baton_spec = {
    .name = "libos_ipc._native.Baton",
    .basicsize = sizeof(struct baton),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = baton_slots,
};

int
baton_setup(PyObject *module)
{
    if (PyModule_AddIntMacro(module, BATON_BYTES) < 0 ||
        PyModule_AddIntConstant(module, "BATON_STRIDE", (long)sizeof(struct place)) < 0) {
        return -1;
    }
    return native_add_type(module, &baton_spec);
}
