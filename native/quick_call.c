#include "quick_call.h"

#include "quick_files.h"
#include "quick_flocks.h"

#include <structmember.h>

struct quick_call {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function;
    PyObject *groups; /* a list: the last is the current one */
    PyObject *name;   /* of its attribute that is asked */
    /* The last group asked, for comparing alone, and what it had. Of a group that is no more that is
     * empty, and each call that ends in the function forgets it: so another one in the same place
     * is not taken for it. */
    const PyObject *last;
    PyObject *files;
};

static struct quick_call *
quick_call_of(PyObject *self)
{
    return (struct quick_call *)self;
}

/* Forgets the last group asked. */
static void
forget(struct quick_call *self)
{
    self->last = NULL;
    Py_CLEAR(self->files);
}

/* What the current group has offered; NULL, perhaps with an exception, if there is none. */
static PyObject *
offered_files(struct quick_call *self)
{
    const Py_ssize_t count = PyList_GET_SIZE(self->groups);
    if (count == 0) {
        return NULL;
    }
    PyObject *group = PyList_GET_ITEM(self->groups, count - 1);
    if (group != self->last) {
        Py_INCREF(group);
        PyObject *files = PyObject_GetAttr(group, self->name);
        forget(self);
        self->files = files;
        self->last = group;
        Py_DECREF(group);
    }
    return Py_XNewRef(self->files);
}

/* 1 if it is done, 0 if it is for the function, -1 with an exception. */
static int
try_quickly(PyObject *files, PyObject *const *args, Py_ssize_t nargs)
{
    const int done = quick_files_lockf(files, args, nargs);
    return done != 0 ? done : quick_flocks_flock(files, args, nargs);
}

static PyObject *
quick_call_call(PyObject *object, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct quick_call *self = quick_call_of(object);
    const Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);

    if (kwnames == NULL || PyTuple_GET_SIZE(kwnames) == 0) {
        PyObject *files = offered_files(self);
        const int done = files == NULL ? 0 : try_quickly(files, args, nargs);
        Py_XDECREF(files);
        if (done != 0) {
            return done < 0 ? NULL : Py_NewRef(Py_None);
        }
        PyErr_Clear();
        forget(self);
    }
    return PyObject_Vectorcall(self->function, args, nargsf, kwnames);
}

static PyObject *
quick_call_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"function", "groups", "files", NULL};
    PyObject *function, *groups, *files;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!U:QuickCall", names, &function,
                                     &PyList_Type, &groups, &files)) {
        return NULL;
    }
    PyObject *object = type->tp_alloc(type, 0);
    if (object != NULL) {
        struct quick_call *self = quick_call_of(object);
        self->call = quick_call_call;
        self->function = Py_NewRef(function);
        self->groups = Py_NewRef(groups);
        self->name = Py_NewRef(files);
    }
    return object;
}

static int
quick_call_traverse(PyObject *object, visitproc visit, void *arg)
{
    const struct quick_call *self = quick_call_of(object);

    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->function);
    Py_VISIT(self->groups);
    return 0;
}

/* There is no tp_clear, as for tuples: what closes a cycle is changed elsewhere, a module's names or a
 * list. So whoever still calls us while such a cycle is taken apart finds the function. */
static void
quick_call_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    struct quick_call *self = quick_call_of(object);

    PyObject_GC_UnTrack(object);
    forget(self);
    Py_CLEAR(self->function);
    Py_CLEAR(self->groups);
    Py_CLEAR(self->name);
    type->tp_free(object);
    Py_DECREF(type);
}

/* What we have not is the function's. */
static PyObject *
quick_call_get(PyObject *object, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr(object, name);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        found = PyObject_GetAttr(quick_call_of(object)->function, name);
    }
    return found;
}

/* An attribute of the function's. The name is interned, since the interpreter's cache of attributes
 * keeps every other one. */
static PyObject *
of_function(PyObject *object, const char *attribute)
{
    PyObject *name = PyUnicode_InternFromString(attribute);
    if (name == NULL) {
        return NULL;
    }
    PyObject *found = PyObject_GetAttr(quick_call_of(object)->function, name);
    Py_DECREF(name);
    return found;
}

static PyObject *
quick_call_doc_of(PyObject *object, void *Py_UNUSED(ignored))
{
    return of_function(object, "__doc__");
}

static PyObject *
quick_call_module_of(PyObject *object, void *Py_UNUSED(ignored))
{
    return of_function(object, "__module__");
}

static PyObject *
quick_call_repr(PyObject *object)
{
    return PyObject_Repr(quick_call_of(object)->function);
}

/* By its name, as functions are. */
static PyObject *
quick_call_reduce(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return of_function(object, "__qualname__");
}

static PyMethodDef quick_call_methods[] = {
    {"__reduce__", quick_call_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef quick_call_getset[] = {
    {"__doc__", quick_call_doc_of, NULL, NULL, NULL},
    {"__module__", quick_call_module_of, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef quick_call_members[] = {
    {"__wrapped__", T_OBJECT, offsetof(struct quick_call, function), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(struct quick_call, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot quick_call_slots[] = {
    {Py_tp_new, quick_call_new},
    {Py_tp_dealloc, quick_call_dealloc},
    {Py_tp_traverse, quick_call_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_getattro, quick_call_get},
    {Py_tp_repr, quick_call_repr},
    {Py_tp_methods, quick_call_methods},
    {Py_tp_getset, quick_call_getset},
    {Py_tp_members, quick_call_members},
    {0, NULL},
};

static PyType_Spec quick_call_spec = {
    .name = "libos_ipc._native.QuickCall",
    .basicsize = sizeof(struct quick_call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = quick_call_slots,
};

int
quick_call_setup(PyObject *module)
{
    return native_add_type(module, &quick_call_spec);
}
