#include "clerk.h"

#include "arguments.h"
#include "clerk_thread.h"
#include "clock.h"
#include "lane.h"
#include "shared.h"

struct clerk {
    PyObject_HEAD
    PyObject *memory; /* Shared, of the reception */
    struct clerk_thread thread;
};

static struct clerk *
clerk_of(PyObject *self)
{
    return (struct clerk *)self;
}

/* Both wait for whoever does the opposite, and that one may need the interpreter. */
static void
begin(struct clerk *clerk)
{
    clerk_thread_settle(&clerk->thread);
    Py_BEGIN_ALLOW_THREADS
    clerk_thread_begin(&clerk->thread);
    Py_END_ALLOW_THREADS
}

static void
end(struct clerk *clerk)
{
    clerk_thread_settle(&clerk->thread);
    Py_BEGIN_ALLOW_THREADS
    clerk_thread_end(&clerk->thread);
    Py_END_ALLOW_THREADS
}

/* ---- desks */

/* Makes room for this line. -1 with MemoryError. */
static int
reserve(struct clerk_thread *thread, size_t line)
{
    if (line < thread->room) {
        return 0;
    }
    size_t room = thread->room == 0 ? 8 : thread->room;
    while (room <= line) {
        room *= 2;
    }
    struct place *at = PyMem_Calloc(room, sizeof *at);
    if (at == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyMem_Free(clerk_thread_grow(thread, at, room));
    return 0;
}

static void
set_place(struct clerk_thread *thread, size_t line, struct place place)
{
    const struct place before = clerk_thread_set(thread, line, place);
    Py_XDECREF((PyObject *)before.owner);
}

PyDoc_STRVAR(serve_doc, "serve($self, line, lane, /)\n--\n\n"
                        "Answer what is asked at this lane's desk, and rung at this line.");

static PyObject *
clerk_serve(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct clerk *clerk = clerk_of(self);
    uint64_t line;

    if (require_count("serve", nargs, 2) < 0 ||
        as_unsigned(args[0], "line", BELL_LINES - 1, &line) < 0) {
        return NULL;
    }
    if (!lane_check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "serve() takes a Lane");
        return NULL;
    }
    PyObject *memory;
    struct desk *desk = lane_served_desk(lane_of(args[1]), &memory);
    if (desk == NULL || reserve(&clerk->thread, line) < 0) {
        return NULL;
    }
    set_place(&clerk->thread, line, (struct place){.desk = desk, .owner = Py_NewRef(memory)});
    if (!clerk_thread_is_running(&clerk->thread)) {
        begin(clerk);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(leave_doc, "leave($self, line, /)\n--\n\n"
                        "There is no desk at this line any more, if there was one.");

static PyObject *
clerk_leave(PyObject *self, PyObject *argument)
{
    uint64_t line;

    if (as_unsigned(argument, "line", BELL_LINES - 1, &line) < 0) {
        return NULL;
    }
    if (line < clerk_of(self)->thread.room) {
        set_place(&clerk_of(self)->thread, line, (struct place){0});
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(start_doc, "start($self, /)\n--\n\n"
                        "Answer from now on, in a thread that is made when there are desks.");

static PyObject *
clerk_start(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct clerk *clerk = clerk_of(self);

    clerk_thread_want(&clerk->thread);
    if (clerk->thread.room > 0) {
        begin(clerk);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc, "stop($self, /)\n--\n\n"
                       "Answer nothing, until `start`. Returns when the thread is gone. Blocks.");

static PyObject *
clerk_stop(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    end(clerk_of(self));
    Py_RETURN_NONE;
}

/* ---- the object */

static PyObject *
clerk_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "spin", NULL};
    PyObject *memory;
    double spin = 0;
    size_t size;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|d:Clerk", names, &memory, &spin)) {
        return NULL;
    }
    unsigned char *bytes = shared_memory(memory, &size);
    if (bytes == NULL) {
        return NULL;
    }
    if (size < RECEPTION_AT + sizeof(struct reception)) {
        PyErr_Format(PyExc_ValueError, "no reception fits into %zu bytes", size);
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL) {
        struct clerk_thread *thread = &clerk_of(self)->thread;
        clerk_of(self)->memory = Py_NewRef(memory);
        thread->reception = (struct reception *)(void *)(bytes + RECEPTION_AT);
        thread->looks.ns = ns_of(spin);
        clerk_thread_init(thread);
    }
    return self;
}

static void
clerk_dealloc(PyObject *self)
{
    struct clerk *clerk = clerk_of(self);
    PyTypeObject *type = Py_TYPE(self);

    end(clerk);
    for (size_t line = 0; line < clerk->thread.room; line++) {
        Py_XDECREF((PyObject *)clerk->thread.at[line].owner);
    }
    PyMem_Free(clerk->thread.at);
    clerk_thread_destroy(&clerk->thread);
    Py_XDECREF(clerk->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
clerk_get_running(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(clerk_thread_is_running(&clerk_of(self)->thread));
}

static PyMethodDef clerk_methods[] = {
    {"serve", NATIVE_METHOD(clerk_serve), METH_FASTCALL, serve_doc},
    {"leave", clerk_leave, METH_O, leave_doc},
    {"start", clerk_start, METH_NOARGS, start_doc},
    {"stop", clerk_stop, METH_NOARGS, stop_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef clerk_attributes[] = {
    {"running", clerk_get_running, NULL, "Whether there is a thread that answers.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(clerk_doc,
             "Clerk(memory, spin=0)\n--\n\n"
             "Who answers without the interpreter what is asked at the desks of lanes, and is called "
             "by a bell in this Shared memory. For `spin` seconds it looks before it sleeps, if that "
             "is worth while.");

static PyType_Slot clerk_slots[] = {
    {Py_tp_doc, (void *)clerk_doc},
    {Py_tp_new, clerk_new},
    {Py_tp_dealloc, clerk_dealloc},
    {Py_tp_methods, clerk_methods},
    {Py_tp_getset, clerk_attributes},
    {0, NULL},
};

static PyType_Spec clerk_spec = {
    .name = "libos_ipc._native.Clerk",
    .basicsize = sizeof(struct clerk),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = clerk_slots,
};

int
clerk_setup(PyObject *module)
{
    return native_add_type(module, &clerk_spec);
}
