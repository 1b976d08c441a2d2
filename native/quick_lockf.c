#include "quick_lockf.h"

#include "lock_slot.h"
#include "quick_files.h"

#include <structmember.h>
#include <sys/file.h>

enum { FEWEST = 2, MOST = 5 }; /* arguments: fd, cmd, len, start, whence */

struct quick_lockf {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function;
    PyObject *groups; /* a list: the last is the current one */
    PyObject *name;   /* of its attribute that is a QuickFiles */
    /* The last group asked, for comparing alone, and what it had. Of a group that is no more that is
     * empty, and each call that ends in the function forgets it: so another one in the same place
     * is not taken for it. */
    const PyObject *last;
    PyObject *files;
};

static struct quick_lockf *
quick_lockf_of(PyObject *self)
{
    return (struct quick_lockf *)self;
}

/* An int of the program's that fits. Nothing else, and no exception. */
static bool
as_number(PyObject *value, int64_t *number)
{
    if (!PyLong_CheckExact(value)) {
        return false;
    }
    int overflow;
    *number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow == 0;
}

/* The descriptor that an argument is or has; -1 without an exception for anything unusual. */
static int
descriptor_of(PyObject *argument)
{
    int64_t number;

    if (PyLong_CheckExact(argument)) {
        return as_number(argument, &number) && number >= 0 && number <= INT32_MAX ? (int)number : -1;
    }
    const int fd = PyObject_AsFileDescriptor(argument);
    if (fd < 0) {
        PyErr_Clear();
    }
    return fd;
}

static bool
type_of(int64_t cmd, uint32_t *type)
{
    if (cmd == LOCK_UN) {
        *type = SLOT_NONE;
    } else if ((cmd & ~(int64_t)LOCK_NB) == LOCK_EX) {
        *type = SLOT_WRITE;
    } else if ((cmd & ~(int64_t)LOCK_NB) == LOCK_SH) {
        *type = SLOT_READ;
    } else {
        return false;
    }
    return true;
}

/* What the arguments behind the descriptor mean, if that is a range from a byte on. */
static bool
range_of(PyObject *const *args, Py_ssize_t nargs, int64_t numbers[MOST], struct quick_range *range)
{
    for (Py_ssize_t i = 1; i < MOST; i++) {
        numbers[i] = 0;
        if (i < nargs && !as_number(args[i], &numbers[i])) {
            return false;
        }
    }
    const int64_t length = numbers[2], start = numbers[3];
    if (!type_of(numbers[1], &range->type) || length < 0 || start < 0 || numbers[4] != SEEK_SET ||
        (length > 0 && length - 1 > INT64_MAX - start)) {
        return false;
    }
    range->start = (uint64_t)start;
    range->end = length == 0 ? INT64_MAX : (uint64_t)(start + length - 1);
    return true;
}

/* Forgets the last group asked. */
static void
forget(struct quick_lockf *self)
{
    self->last = NULL;
    Py_CLEAR(self->files);
}

/* What the current group has offered; NULL, perhaps with an exception, if there is none. */
static PyObject *
offered_files(struct quick_lockf *self)
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
lock_quickly(PyObject *files, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t numbers[MOST];
    struct quick_range range;
    const int fd = descriptor_of(args[0]);

    if (fd < 0 || !quick_files_knows(files, fd) || !range_of(args, nargs, numbers, &range) ||
        !quick_files_is_open(files, fd, &range)) {
        return 0;
    }
    if (PySys_Audit("fcntl.lockf", "iiLLi", fd, (int)numbers[1], (long long)numbers[2],
                    (long long)numbers[3], (int)numbers[4]) < 0) {
        return -1;
    }
    return quick_files_set(files, fd, &range);
}

static PyObject *
quick_lockf_call(PyObject *object, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct quick_lockf *self = quick_lockf_of(object);
    const Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);

    if (nargs >= FEWEST && nargs <= MOST && (kwnames == NULL || PyTuple_GET_SIZE(kwnames) == 0)) {
        PyObject *files = offered_files(self);
        const int done = files == NULL ? 0 : lock_quickly(files, args, nargs);
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
quick_lockf_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"function", "groups", "files", NULL};
    PyObject *function, *groups, *files;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!U:QuickLockf", names, &function,
                                     &PyList_Type, &groups, &files)) {
        return NULL;
    }
    PyObject *object = type->tp_alloc(type, 0);
    if (object != NULL) {
        struct quick_lockf *self = quick_lockf_of(object);
        self->call = quick_lockf_call;
        self->function = Py_NewRef(function);
        self->groups = Py_NewRef(groups);
        self->name = Py_NewRef(files);
    }
    return object;
}

static int
quick_lockf_traverse(PyObject *object, visitproc visit, void *arg)
{
    const struct quick_lockf *self = quick_lockf_of(object);

    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->function);
    Py_VISIT(self->groups);
    return 0;
}

static int
quick_lockf_clear(PyObject *object)
{
    struct quick_lockf *self = quick_lockf_of(object);

    Py_CLEAR(self->function);
    Py_CLEAR(self->groups);
    forget(self);
    return 0;
}

static void
quick_lockf_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    quick_lockf_clear(object);
    Py_CLEAR(quick_lockf_of(object)->name);
    type->tp_free(object);
    Py_DECREF(type);
}

/* What we have not is the function's. */
static PyObject *
quick_lockf_get(PyObject *object, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr(object, name);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        found = PyObject_GetAttr(quick_lockf_of(object)->function, name);
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
    PyObject *found = PyObject_GetAttr(quick_lockf_of(object)->function, name);
    Py_DECREF(name);
    return found;
}

static PyObject *
quick_lockf_doc_of(PyObject *object, void *Py_UNUSED(ignored))
{
    return of_function(object, "__doc__");
}

static PyObject *
quick_lockf_module_of(PyObject *object, void *Py_UNUSED(ignored))
{
    return of_function(object, "__module__");
}

static PyObject *
quick_lockf_repr(PyObject *object)
{
    return PyObject_Repr(quick_lockf_of(object)->function);
}

/* By its name, as functions are. */
static PyObject *
quick_lockf_reduce(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return of_function(object, "__qualname__");
}

static PyMethodDef quick_lockf_methods[] = {
    {"__reduce__", quick_lockf_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef quick_lockf_getset[] = {
    {"__doc__", quick_lockf_doc_of, NULL, NULL, NULL},
    {"__module__", quick_lockf_module_of, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef quick_lockf_members[] = {
    {"__wrapped__", T_OBJECT, offsetof(struct quick_lockf, function), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(struct quick_lockf, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot quick_lockf_slots[] = {
    {Py_tp_new, quick_lockf_new},
    {Py_tp_dealloc, quick_lockf_dealloc},
    {Py_tp_traverse, quick_lockf_traverse},
    {Py_tp_clear, quick_lockf_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_getattro, quick_lockf_get},
    {Py_tp_repr, quick_lockf_repr},
    {Py_tp_methods, quick_lockf_methods},
    {Py_tp_getset, quick_lockf_getset},
    {Py_tp_members, quick_lockf_members},
    {0, NULL},
};

static PyType_Spec quick_lockf_spec = {
    .name = "libos_ipc._native.QuickLockf",
    .basicsize = sizeof(struct quick_lockf),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = quick_lockf_slots,
};

int
quick_lockf_setup(PyObject *module)
{
    return native_add_type(module, &quick_lockf_spec);
}
