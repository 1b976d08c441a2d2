#include "deposit.h"

#include "arguments.h"

#include <stdatomic.h>

enum {
    STATE_BITS = 4,
    SLAB_BITS = 8,
    EPOCH_BITS = 20,
    SLAB_AT = STATE_BITS,
    EPOCH_AT = SLAB_AT + SLAB_BITS,
    HANDLE_AT = EPOCH_AT + EPOCH_BITS,
    LOWEST = 1, /* the state of who has nothing */
    STATE_MASK = (1 << STATE_BITS) - 1,
    SLAB_MASK = (1 << SLAB_BITS) - 1,
    NO_SLAB = SLAB_MASK,
    EPOCH_MASK = (1 << EPOCH_BITS) - 1,
};

/* In shared memory, zeroed to begin with. */
struct cell {
    _Atomic uint64_t word;
    _Atomic uint64_t where;
    _Atomic uint64_t over;
};

enum { TABLE_BYTES = DEPOSIT_CELLS * sizeof(struct cell) };

struct deposit {
    PyObject_HEAD
    Py_buffer memory;
    struct cell *cell; /* NULL when it was released: then nothing is put, and nothing is lost */
    uint64_t base;     /* of a word: handle and epoch */
    uint64_t put;      /* the word without its state, as it was put last */
};

static struct deposit *
deposit_at(PyObject *self)
{
    return (struct deposit *)self;
}

/* ---- the word */

static uint64_t
base_of(uint64_t handle, uint64_t epoch)
{
    return handle << HANDLE_AT | (epoch & EPOCH_MASK) << EPOCH_AT;
}

static uint32_t
state_in(uint64_t word)
{
    return word & STATE_MASK;
}

static bool
swing(struct cell *cell, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(&cell->word, &from, to, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

static uint64_t
word_now(const struct cell *cell)
{
    return atomic_load_explicit(&cell->word, memory_order_acquire);
}

void
deposit_put(struct deposit *deposit, uint32_t state, uint64_t over, const struct record *record)
{
    uint64_t slab = NO_SLAB, where = UINT64_MAX;

    if (deposit->cell == NULL || word_now(deposit->cell) != 0) {
        return; /* only we end that it is there: nobody comes between */
    }
    if (record != NULL) {
        record_place(record, &slab, &where);
    }
    deposit->put = deposit->base | (slab & SLAB_MASK) << SLAB_AT;
    atomic_store_explicit(&deposit->cell->where, where, memory_order_relaxed);
    atomic_store_explicit(&deposit->cell->over, over, memory_order_relaxed);
    atomic_store_explicit(&deposit->cell->word, deposit->put | state, memory_order_release);
}

bool
deposit_take_back(struct deposit *deposit, uint32_t state)
{
    if (deposit->cell == NULL || word_now(deposit->cell) == 0) {
        return true;
    }
    if (state <= LOWEST) { /* nobody takes anything of that */
        atomic_store_explicit(&deposit->cell->word, 0, memory_order_relaxed);
        return true;
    }
    return swing(deposit->cell, deposit->put | state, 0);
}

/* What is left of this state, as far as this can be told: nothing was put, or it is as it was, or less. */
static uint32_t
left_of(const struct deposit *deposit, uint32_t state)
{
    const uint64_t word = deposit->cell == NULL ? 0 : word_now(deposit->cell);

    if (word == 0 || word == (deposit->put | state)) {
        return state;
    }
    const bool sound = (word & ~(uint64_t)STATE_MASK) == deposit->put;
    const uint32_t left = sound ? state_in(word) : LOWEST;
    return left >= LOWEST && left < state ? left : LOWEST;
}

/* ---- for Python: the process's end */

PyDoc_STRVAR(put_doc, "put($self, state, over, record, /)\n--\n\n"
                      "This may be taken from us, until we take it back, with the value in this "
                      "record, if there is one. All waits have ended up to the number `over`.");

static PyObject *
deposit_put_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t state, over;

    if (require_count("put", nargs, 3) < 0 ||
        as_unsigned(args[0], "state", STATE_MASK, &state) < 0 ||
        as_unsigned(args[1], "over", UINT64_MAX, &over) < 0) {
        return NULL;
    }
    deposit_put(deposit_at(self), (uint32_t)state, over, record_of(args[2]));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(take_back_doc, "take_back($self, state, /)\n--\n\n"
                            "Nothing may be taken any more. False if we have less by now.");

static PyObject *
deposit_take_back_method(PyObject *self, PyObject *argument)
{
    uint64_t state;

    if (as_unsigned(argument, "state", STATE_MASK, &state) < 0) {
        return NULL;
    }
    return PyBool_FromLong(deposit_take_back(deposit_at(self), (uint32_t)state));
}

PyDoc_STRVAR(left_doc, "left($self, state, /)\n--\n\n"
                       "How much of this we have now.");

static PyObject *
deposit_left(PyObject *self, PyObject *argument)
{
    uint64_t state;

    if (as_unsigned(argument, "state", STATE_MASK, &state) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLong(left_of(deposit_at(self), (uint32_t)state));
}

PyDoc_STRVAR(release_doc, "release($self, /)\n--\n\nLet go of the memory, as it is.");

static PyObject *
deposit_release(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    deposit_at(self)->cell = NULL;
    PyBuffer_Release(&deposit_at(self)->memory);
    Py_RETURN_NONE;
}

/* ---- for Python: the leader's end */

struct asked {
    Py_buffer memory;
    uint64_t handle, epoch, state;
};

/* What both functions have been given. -1 with an exception; else the memory is to be released. */
static int
ask(struct asked *asked, PyObject *const *args)
{
    if (as_unsigned(args[1], "id", UINT32_MAX, &asked->handle) < 0 ||
        as_unsigned(args[2], "epoch", UINT64_MAX, &asked->epoch) < 0 ||
        as_unsigned(args[3], "state", STATE_MASK, &asked->state) < 0 ||
        PyObject_GetBuffer(args[0], &asked->memory, PyBUF_WRITABLE) < 0) {
        return -1;
    }
    if (asked->memory.len < TABLE_BYTES ||
        (uintptr_t)asked->memory.buf % _Alignof(struct cell) != 0) {
        PyErr_SetString(PyExc_ValueError, "this is no table of deposits");
        PyBuffer_Release(&asked->memory);
        return -1;
    }
    return 0;
}

/* Where this state of the handle is put, in whichever slab, and the word; NULL if it is not. */
static struct cell *
find(const struct asked *asked, uint64_t *word)
{
    struct cell *table = asked->memory.buf;
    const uint64_t wanted = base_of(asked->handle, asked->epoch) | asked->state;

    for (uint64_t probe = 0; probe < DEPOSIT_PROBES; probe++) {
        struct cell *cell = &table[(asked->handle + probe) % DEPOSIT_CELLS];
        *word = word_now(cell);
        if ((*word & ~((uint64_t)SLAB_MASK << SLAB_AT)) == wanted) {
            return cell;
        }
    }
    return NULL;
}

PyDoc_STRVAR(find_doc, "find_deposit($module, table, id, epoch, state, /)\n--\n\n"
                       "In which slab the value is of what is put there, NO_SLAB for none; None if "
                       "this state is not put.");

static PyObject *
find_deposit(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    struct asked asked;
    uint64_t word;

    if (require_count("find_deposit", nargs, 4) < 0 || ask(&asked, args) < 0) {
        return NULL;
    }
    const bool there = find(&asked, &word) != NULL;
    PyBuffer_Release(&asked.memory);
    return there ? PyLong_FromUnsignedLongLong(word >> SLAB_AT & SLAB_MASK) : Py_NewRef(Py_None);
}

PyDoc_STRVAR(lower_doc, "lower_deposit($module, table, id, epoch, state, slab, to, /)\n--\n\n"
                        "Leave only this of it, if it is put there still, with its value in that "
                        "slab: (at which byte of it, -1 for nowhere; up to which number all waits "
                        "have ended there); None if it is not.");

static PyObject *
lower_deposit(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    struct asked asked;
    uint64_t slab, to, word, where = 0, over = 0;

    if (require_count("lower_deposit", nargs, 6) < 0 ||
        as_unsigned(args[4], "slab", SLAB_MASK, &slab) < 0 ||
        as_unsigned(args[5], "to", STATE_MASK, &to) < 0 || ask(&asked, args) < 0) {
        return NULL;
    }
    struct cell *cell = find(&asked, &word);
    const bool lowered = cell != NULL && (word >> SLAB_AT & SLAB_MASK) == slab &&
                         swing(cell, word, (word & ~(uint64_t)STATE_MASK) | to);
    if (lowered) {
        /* What was put again meanwhile has the same record, and all that had ended has ended still. */
        where = atomic_load_explicit(&cell->where, memory_order_relaxed);
        over = atomic_load_explicit(&cell->over, memory_order_relaxed);
    }
    PyBuffer_Release(&asked.memory);
    if (!lowered) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("LK", where > INT64_MAX ? -1LL : (long long)where, (unsigned long long)over);
}

/* ---- the object */

static PyObject *
deposit_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"table", "index", "id", "epoch", NULL};
    PyObject *table;
    Py_ssize_t index;
    unsigned int handle;
    unsigned long long epoch;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnIK:Deposit", names, &table, &index, &handle,
                                     &epoch)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    struct deposit *deposit = deposit_at(self);
    if (PyObject_GetBuffer(table, &deposit->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    struct cell *first = deposit->memory.buf;
    if (index < 0 || index >= DEPOSIT_CELLS || deposit->memory.len < TABLE_BYTES ||
        (uintptr_t)first % _Alignof(struct cell) != 0) {
        PyErr_Format(PyExc_ValueError, "no deposit is at %zd of %zd bytes", index,
                     deposit->memory.len);
        Py_DECREF(self);
        return NULL;
    }
    deposit->cell = first + index;
    deposit->base = deposit->put = base_of(handle, epoch);
    return self;
}

static void
deposit_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyBuffer_Release(&deposit_at(self)->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
struct deposit *
deposit_of(PyObject *object)
{
    const bool is_one = object != NULL && Py_TYPE(object)->tp_dealloc == deposit_dealloc;
    return is_one ? deposit_at(object) : NULL;
}

static PyMethodDef deposit_methods[] = {
    {"put", NATIVE_METHOD(deposit_put_method), METH_FASTCALL, put_doc},
    {"take_back", deposit_take_back_method, METH_O, take_back_doc},
    {"left", deposit_left, METH_O, left_doc},
    {"release", deposit_release, METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef functions[] = {
    {"find_deposit", NATIVE_METHOD(find_deposit), METH_FASTCALL, find_doc},
    {"lower_deposit", NATIVE_METHOD(lower_deposit), METH_FASTCALL, lower_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(deposit_doc, "Deposit(table, index, id, epoch)\n--\n\n"
                          "What this process has of a handle, for the leader to take while it is "
                          "not used; see native/deposit.h.");

static PyType_Slot deposit_slots[] = {
    {Py_tp_doc, (void *)deposit_doc},
    {Py_tp_new, deposit_new},
    {Py_tp_dealloc, deposit_dealloc},
    {Py_tp_methods, deposit_methods},
    {0, NULL},
};

static PyType_Spec deposit_spec = {
    .name = "libos_ipc._native.Deposit",
    .basicsize = sizeof(struct deposit),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = deposit_slots,
};

int
deposit_setup(PyObject *module)
{
    if (PyModule_AddIntMacro(module, DEPOSIT_CELLS) < 0 ||
        PyModule_AddIntMacro(module, DEPOSIT_PROBES) < 0 ||
        PyModule_AddIntConstant(module, "DEPOSIT_BYTES", TABLE_BYTES) < 0 ||
        PyModule_AddIntMacro(module, NO_SLAB) < 0 ||
        PyModule_AddFunctions(module, functions) < 0) {
        return -1;
    }
    return native_add_type(module, &deposit_spec);
}
