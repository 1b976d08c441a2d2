#include "doorbell.h"

#include "arguments.h"
#include "clock.h"
#include "shared.h"

#include <errno.h>

struct doorbell {
    PyObject_HEAD
    PyObject *memory; /* Shared */
    struct bell *bell;
    struct vigil vigil;
    uint32_t seen; /* of the count, by SEAT */
    struct looks looks; /* of SEAT */
};

static struct doorbell *
doorbell_of(PyObject *self)
{
    return (struct doorbell *)self;
}

static PyObject *
doorbell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "spin", NULL};
    PyObject *memory;
    double spin = 0;
    size_t size;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|d:Doorbell", names, &memory, &spin)) {
        return NULL;
    }
    void *bytes = shared_memory(memory, &size);
    if (bytes == NULL) {
        return NULL;
    }
    if (size < sizeof(struct bell)) {
        PyErr_Format(PyExc_ValueError, "no bell fits into %zu bytes", size);
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        doorbell_of(self)->memory = Py_NewRef(memory);
        doorbell_of(self)->bell = bytes;
        doorbell_of(self)->vigil.bell = bytes;
        doorbell_of(self)->looks.ns = ns_of(spin);
    }
    return self;
}

static void
doorbell_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    Py_XDECREF(doorbell_of(self)->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
struct bell *
doorbell_bell(PyObject *object)
{
    if (Py_TYPE(object)->tp_dealloc != doorbell_dealloc) {
        PyErr_Format(PyExc_TypeError, "expected a Doorbell, not %.100s", Py_TYPE(object)->tp_name);
        return NULL;
    }
    return doorbell_of(object)->bell;
}

int
doorbell_sleep(PyObject *object, uint32_t who, int64_t deadline)
{
    struct doorbell *doorbell = doorbell_of(object);

    if (who == BELL_PORTER) {
        return vigil_sleep(&doorbell->vigil, deadline);
    }
    return bell_sleep(doorbell->bell, BELL_SEAT, deadline, &doorbell->looks, &doorbell->seen);
}

bool
doorbell_glance(PyObject *object, int64_t until)
{
    const struct doorbell *doorbell = doorbell_of(object);

    return doorbell->looks.ns > 0 && doorbell->looks.vain == 0 &&
           bell_glance(doorbell->bell, until, doorbell->seen);
}

void
doorbell_nudge(PyObject *object, uint32_t who)
{
    if (who == BELL_PORTER) {
        vigil_call(&doorbell_of(object)->vigil);
    } else {
        bell_nudge(doorbell_of(object)->bell, who);
    }
}

int64_t
doorbell_spin(PyObject *object)
{
    return doorbell_of(object)->looks.ns;
}

struct vigil *
doorbell_vigil(PyObject *object)
{
    return &doorbell_of(object)->vigil;
}

static int
as_sleeper(PyObject *value, uint32_t *who)
{
    uint64_t number;

    if (as_unsigned(value, "who", UINT32_MAX, &number) < 0) {
        return -1;
    }
    if (number != BELL_SEAT && number != BELL_PORTER) {
        PyErr_SetString(PyExc_ValueError, "who must be SEAT or PORTER");
        return -1;
    }
    *who = (uint32_t)number;
    return 0;
}

PyDoc_STRVAR(sleep_doc,
             "sleep($self, who, deadline, /)\n--\n\n"
             "Sleep as SEAT or PORTER until the bell rings or is nudged, at the latest until "
             "`deadline` (of time.monotonic(), or None). False if neither happened: that may be "
             "long before the deadline. Who was nudged since the sleep before does not sleep. "
             "Signals are handled. Afterwards `take` must be called. One thread as either.");

static PyObject *
sleep_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint32_t who;
    int64_t deadline;
    int found;

    if (require_count("sleep", nargs, 2) < 0 || as_sleeper(args[0], &who) < 0 ||
        as_deadline(args[1], &deadline) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    found = doorbell_sleep(self, who, deadline);
    Py_END_ALLOW_THREADS
    if (found == EINTR && PyErr_CheckSignals() < 0) {
        return NULL;
    }
    return PyBool_FromLong(found != ETIMEDOUT);
}

PyDoc_STRVAR(sit_doc, "sit($self, /)\n--\n\n"
                      "SEAT is awake, and will look before it sleeps: nobody is woken until `stand`.");

static PyObject *
doorbell_sit(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    bell_sit(doorbell_of(self)->bell);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stand_doc, "stand($self, /)\n--\n\n"
                        "SEAT does not look any more. Whether something was rung.");

static PyObject *
doorbell_stand(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(bell_stand(doorbell_of(self)->bell));
}

PyDoc_STRVAR(take_doc, "take($self, /)\n--\n\n"
                       "The lines that were rung since. While it gives some nobody is woken: ask "
                       "again until there are none. One thread at a time.");

static PyObject *
doorbell_take(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    uint64_t lines[BELL_WORDS];
    PyObject *found = PyList_New(0);

    if (found == NULL || !bell_take(doorbell_of(self)->bell, lines)) {
        return found;
    }
    for (unsigned line = 0; line < BELL_LINES; line++) {
        if (lines[line / 64] == 0) {
            line |= 63;
        } else if ((lines[line / 64] >> line % 64 & 1) != 0) {
            PyObject *number = PyLong_FromUnsignedLong(line);
            const int added = number == NULL ? -1 : PyList_Append(found, number);
            Py_XDECREF(number);
            if (added < 0) {
                Py_DECREF(found);
                return NULL;
            }
        }
    }
    return found;
}

PyDoc_STRVAR(rest_doc, "rest($self, /)\n--\n\n"
                       "Whoever was given lines does not ask again now, though there may be more.");

static PyObject *
doorbell_rest(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    bell_rest(doorbell_of(self)->bell);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(again_doc, "again($self, line, /)\n--\n\nThis line is to be looked at once more.");

static PyObject *
doorbell_again(PyObject *self, PyObject *argument)
{
    uint64_t line;

    if (as_unsigned(argument, "line", BELL_LINES - 1, &line) < 0) {
        return NULL;
    }
    bell_again(doorbell_of(self)->bell, (unsigned)line);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(nudge_doc, "nudge($self, who, /)\n--\n\n"
                        "Wake who sleeps as SEAT or PORTER, though nothing was rung. Any thread.");

static PyObject *
nudge_method(PyObject *self, PyObject *argument)
{
    uint32_t who;

    if (as_sleeper(argument, &who) < 0) {
        return NULL;
    }
    doorbell_nudge(self, who);
    Py_RETURN_NONE;
}

static PyMethodDef doorbell_methods[] = {
    {"sleep", NATIVE_METHOD(sleep_method), METH_FASTCALL, sleep_doc},
    {"sit", doorbell_sit, METH_NOARGS, sit_doc},
    {"stand", doorbell_stand, METH_NOARGS, stand_doc},
    {"take", doorbell_take, METH_NOARGS, take_doc},
    {"rest", doorbell_rest, METH_NOARGS, rest_doc},
    {"again", doorbell_again, METH_O, again_doc},
    {"nudge", nudge_method, METH_O, nudge_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(doorbell_doc,
             "Doorbell(memory, spin=0)\n--\n\n"
             "What wakes this process when others write to it, in Shared memory that they have "
             "mapped too. For `spin` seconds SEAT looks before it sleeps, if that is worth while.");

static PyType_Slot doorbell_slots[] = {
    {Py_tp_doc, (void *)doorbell_doc},
    {Py_tp_new, doorbell_new},
    {Py_tp_dealloc, doorbell_dealloc},
    {Py_tp_methods, doorbell_methods},
    {0, NULL},
};

static PyType_Spec doorbell_spec = {
    .name = "libos_ipc._native.Doorbell",
    .basicsize = sizeof(struct doorbell),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = doorbell_slots,
};

int
doorbell_setup(PyObject *module)
{
    if (native_add_type(module, &doorbell_spec) < 0 ||
        PyModule_AddIntConstant(module, "SEAT", BELL_SEAT) < 0 ||
        PyModule_AddIntConstant(module, "PORTER", BELL_PORTER) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "BELL_LINES", BELL_LINES);
}
