#include "turns_object.h"

#include "arguments.h"
#include "clock.h"

struct turns_object {
    PyObject_HEAD
    Py_buffer memory;
    struct turns *turns; /* NULL once released */
    unsigned me;         /* which turn is ours; 0 for the leader */
    unsigned waiting;    /* threads that have the memory in use */
};

static struct turns_object *
turns_of(PyObject *self)
{
    return (struct turns_object *)self;
}

/* Lets go of the memory once it is released and nobody waits there. */
static void
settle(struct turns_object *self)
{
    if (self->turns == NULL && self->waiting == 0) {
        PyBuffer_Release(&self->memory);
    }
}

/* ---- a process */

int64_t
turns_object_take(PyObject *object, const struct turn *wanted, int64_t deadline)
{
    struct turns_object *self = turns_of(object);
    struct turns *turns = self->turns;
    const unsigned me = self->me;

    if (turns == NULL || me == 0 || !turns_enter(turns, me, wanted, deadline == 0)) {
        return TURNS_NOT_HERE;
    }
    int64_t number = turns_claim(turns, me);
    if (number == 0 && deadline > 0) {
        const int64_t moment = now_ns() + TURNS_MOMENT_NS;
        self->waiting++;
        Py_BEGIN_ALLOW_THREADS
        number = turns_await(turns, me, moment < deadline ? moment : deadline);
        Py_END_ALLOW_THREADS
        self->waiting--;
        settle(self);
    }
    return number > 0 ? number : TURNS_WAIT_ON;
}

bool
turns_object_leave(PyObject *object, uint64_t handle)
{
    const struct turns_object *self = turns_of(object);

    return self->turns != NULL && self->me > 0 && turns_leave(self->turns, self->me, handle);
}

PyDoc_STRVAR(take_doc,
             "take($self, handle, thread, wait, seconds, /)\n--\n\n"
             "Take the lock for this acquisition: the number of the grant; 0 if it is not to be had "
             "here; -1 if it waits on, after a moment.");

static PyObject *
turns_take_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t handle, thread, wait;

    if (require_count("take", nargs, 4) < 0 ||
        as_unsigned(args[0], "handle", UINT64_MAX, &handle) < 0 ||
        as_unsigned(args[1], "thread", UINT32_MAX, &thread) < 0 ||
        as_unsigned(args[2], "wait", UINT32_MAX, &wait) < 0) {
        return NULL;
    }
    const double seconds = PyFloat_AsDouble(args[3]);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    const struct turn wanted = {
        .handle = handle, .thread = (uint32_t)thread, .wait = (uint32_t)wait};
    const int64_t deadline = seconds > 0 ? after_seconds(seconds) : 0;
    const int64_t number = turns_object_take(self, &wanted, deadline);
    if (number == TURNS_WAIT_ON && PyErr_CheckSignals() < 0) {
        return NULL;
    }
    return PyLong_FromLongLong(number);
}

PyDoc_STRVAR(leave_doc, "leave($self, handle, /)\n--\n\n"
                        "Give the lock back, or wait for it no more. False if that is for the leader.");

static PyObject *
turns_leave_method(PyObject *self, PyObject *argument)
{
    uint64_t handle;

    if (as_unsigned(argument, "handle", UINT64_MAX, &handle) < 0) {
        return NULL;
    }
    return PyBool_FromLong(turns_object_leave(self, handle));
}

PyDoc_STRVAR(ended_doc, "ended($self, /)\n--\n\nWhether they are no more.");

static PyObject *
turns_ended_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct turns *turns = turns_of(self)->turns;

    return PyBool_FromLong(turns == NULL || turns_have_ended(turns));
}

/* ---- the leader */

static struct turns *
leaders(PyObject *self)
{
    struct turns *turns = turns_of(self)->turns;

    if (turns == NULL) {
        PyErr_SetString(PyExc_ValueError, "these turns were released");
    }
    return turns;
}

/* Turns as `look` gives them, but for whose they are. How many, or -1 with an exception. */
static int
as_queue(PyObject *given, struct turn queue[MOST_TURNS])
{
    if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) < 1 ||
        PyTuple_GET_SIZE(given) > MOST_TURNS) {
        PyErr_Format(PyExc_ValueError, "a queue is a tuple of 1 to %d", MOST_TURNS);
        return -1;
    }
    const int count = (int)PyTuple_GET_SIZE(given);
    for (int i = 0; i < count; i++) {
        unsigned long long handle, number;
        struct turn turn = {0};
        if (!PyArg_Parse(PyTuple_GET_ITEM(given, i), "(KIIK):begin", &handle, &turn.thread,
                         &turn.wait, &number)) {
            return -1;
        }
        turn.handle = handle;
        turn.number = number & INT64_MAX;
        queue[i] = turn;
    }
    return count;
}

PyDoc_STRVAR(begin_doc, "begin($self, queue, last, /)\n--\n\n"
                        "Begin, with these in the queue, of whom the first has the lock: (handle, "
                        "thread, wait, number) each.");

static PyObject *
turns_begin_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct turns *turns = leaders(self);
    struct turn queue[MOST_TURNS];
    uint64_t last;

    if (turns == NULL || require_count("begin", nargs, 2) < 0 ||
        as_unsigned(args[1], "last", INT64_MAX - 1, &last) < 0) {
        return NULL;
    }
    const int count = as_queue(args[0], queue);
    if (count < 0) {
        return NULL;
    }
    turns_begin(turns, queue, (unsigned)count, last);
    Py_RETURN_NONE;
}

/* (taken, a turn's fields each), the head first. */
static PyObject *
look(PyObject *self, bool end)
{
    struct turns *turns = leaders(self);
    struct turns_found found;

    if (turns == NULL) {
        return NULL;
    }
    turns_look(turns, end, &found);
    PyObject *rows = PyTuple_New((Py_ssize_t)found.count);
    for (unsigned i = 0; rows != NULL && i < found.count; i++) {
        const struct turn *turn = &found.turns[i];
        PyObject *row =
            Py_BuildValue("IKIIK", found.which[i], (unsigned long long)turn->handle, turn->thread,
                          turn->wait, (unsigned long long)turn->number);
        if (row == NULL) {
            Py_CLEAR(rows);
            break;
        }
        PyTuple_SET_ITEM(rows, (Py_ssize_t)i, row);
    }
    return rows == NULL ? NULL : Py_BuildValue("NN", PyBool_FromLong(found.taken), rows);
}

PyDoc_STRVAR(look_doc, "look($self, /)\n--\n\n"
                       "Whether the head has the lock, and all in the queue, while they go on.");

static PyObject *
turns_look_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return look(self, false);
}

PyDoc_STRVAR(end_doc, "end($self, /)\n--\n\nThe same, and nobody changes it any more.");

static PyObject *
turns_end_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return look(self, true);
}

PyDoc_STRVAR(release_doc, "release($self, /)\n--\n\nFrom now on it is as if they had ended.");

static PyObject *
turns_release_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    turns_of(self)->turns = NULL;
    settle(turns_of(self));
    Py_RETURN_NONE;
}

/* ---- the object */

static PyObject *
turns_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "index", "me", NULL};
    PyObject *memory;
    Py_ssize_t index;
    unsigned int me;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnI:Turns", names, &memory, &index, &me)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    struct turns_object *object = turns_of(self);
    if (PyObject_GetBuffer(memory, &object->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    struct turns *first = object->memory.buf;
    const Py_ssize_t count = object->memory.len / (Py_ssize_t)sizeof *first;
    if (index < 0 || index >= count || me > MOST_TURNS ||
        (uintptr_t)first % _Alignof(struct turns) != 0) {
        PyErr_Format(PyExc_ValueError, "no turn %u is at %zd of %zd", me, index, count);
        Py_DECREF(self);
        return NULL;
    }
    object->turns = first + index;
    object->me = me;
    return self;
}

static void
turns_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyBuffer_Release(&turns_of(self)->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
bool
is_turns(PyObject *object)
{
    return object != NULL && Py_TYPE(object)->tp_dealloc == turns_dealloc;
}

static PyMethodDef turns_methods[] = {
    {"take", NATIVE_METHOD(turns_take_method), METH_FASTCALL, take_doc},
    {"leave", turns_leave_method, METH_O, leave_doc},
    {"ended", turns_ended_method, METH_NOARGS, ended_doc},
    {"begin", NATIVE_METHOD(turns_begin_method), METH_FASTCALL, begin_doc},
    {"look", turns_look_method, METH_NOARGS, look_doc},
    {"end", turns_end_method, METH_NOARGS, end_doc},
    {"release", turns_release_method, METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(turns_doc, "Turns(memory, index, me)\n--\n\n"
                        "Those at this index of the memory, for the process whose turn is `me`, or "
                        "for the leader with 0; see native/turns.h.");

static PyType_Slot turns_slots[] = {
    {Py_tp_doc, (void *)turns_doc},
    {Py_tp_new, turns_new},
    {Py_tp_dealloc, turns_dealloc},
    {Py_tp_methods, turns_methods},
    {0, NULL},
};

static PyType_Spec turns_spec = {
    .name = "libos_ipc._native.Turns",
    .basicsize = sizeof(struct turns_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = turns_slots,
};

int
turns_setup(PyObject *module)
{
    if (PyModule_AddIntConstant(module, "TURNS_STRIDE", (long)sizeof(struct turns)) < 0 ||
        PyModule_AddIntMacro(module, MOST_TURNS) < 0) {
        return -1;
    }
    return native_add_type(module, &turns_spec);
}
