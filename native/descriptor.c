#include "descriptor.h"

#include "arguments.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

struct descriptor {
    PyObject_HEAD
    int fd; /* -1 once closed */
};

static void
close_it(struct descriptor *self)
{
    const int fd = self->fd;
    self->fd = -1;
    if (fd >= 0) {
        Py_BEGIN_ALLOW_THREADS
        close(fd);
        Py_END_ALLOW_THREADS
    }
}

static int
duplicate(int fd, int lowest)
{
    const int found = fcntl(fd, F_DUPFD_CLOEXEC, lowest);
    const bool too_high = found < 0 && (errno == EMFILE || errno == EINVAL);
    return too_high ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : found;
}

/* A descriptor of the same file by which nothing can be done but keep its inode. */
static int
keep(int fd)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_PATH | O_CLOEXEC);
}

/* As open(2), again when a signal came whose handler did not raise. -1 with errno, or with the
 * exception of a handler. */
static int
open_it(const char *path, int flags)
{
    int fd;
    do {
        Py_BEGIN_ALLOW_THREADS
        fd = open(path, flags | O_CLOEXEC, S_IRUSR | S_IWUSR);
        Py_END_ALLOW_THREADS
    } while (fd < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    return fd;
}

/* Made of a descriptor that is ours from now on, or of the error that there is none. */
static PyObject *
make(PyTypeObject *type, int fd)
{
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        close(fd);
        return NULL;
    }
    ((struct descriptor *)self)->fd = fd;
    return self;
}

PyObject *
descriptor_duplicate(PyObject *type, int fd, int lowest)
{
    return make((PyTypeObject *)type, duplicate(fd, lowest));
}

int
descriptor_number(const PyObject *self)
{
    return ((const struct descriptor *)self)->fd;
}

static PyObject *
descriptor_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "lowest", NULL};
    PyObject *number, *from = Py_None;
    int64_t fd, lowest = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:Descriptor", names, &number, &from) ||
        as_signed(number, "fd", INT32_MIN, INT32_MAX, &fd) < 0 ||
        (from != Py_None && as_signed(from, "lowest", 0, INT32_MAX, &lowest) < 0)) {
        return NULL;
    }
    return make(type, from == Py_None ? keep((int)fd) : duplicate((int)fd, (int)lowest));
}

static void
descriptor_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    close_it((struct descriptor *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nClose it. A second time does nothing.");

static PyObject *
descriptor_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    close_it((struct descriptor *)self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fileno_doc, "fileno($self, /)\n--\n\nIts number, -1 once closed.");

static PyObject *
descriptor_fileno(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(((struct descriptor *)self)->fd);
}

PyDoc_STRVAR(open_doc, "open($type, path, flags, /)\n--\n\n"
                       "What os.open gives for these flags, close-on-exec; mode 0600. OSError.");

static PyObject *
descriptor_open(PyObject *type, PyObject *args)
{
    PyObject *path, *bytes = NULL, *found = NULL;
    int flags;

    if (!PyArg_ParseTuple(args, "Oi:open", &path, &flags) || !PyUnicode_FSConverter(path, &bytes)) {
        return NULL;
    }
    const int fd = open_it(PyBytes_AS_STRING(bytes), flags);
    if (fd >= 0) {
        found = make((PyTypeObject *)type, fd);
    } else if (!PyErr_Occurred()) {
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
    Py_DECREF(bytes);
    return found;
}

static PyMethodDef descriptor_methods[] = {
    {"open", descriptor_open, METH_VARARGS | METH_CLASS, open_doc},
    {"close", descriptor_close, METH_NOARGS, close_doc},
    {"fileno", descriptor_fileno, METH_NOARGS, fileno_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(descriptor_doc,
             "Descriptor(fd, lowest=None)\n--\n\n"
             "A duplicate, numbered from `lowest` on; without that, a keeper (O_PATH) of the file.");

static PyType_Slot descriptor_slots[] = {
    {Py_tp_doc, (void *)descriptor_doc},
    {Py_tp_new, descriptor_new},
    {Py_tp_dealloc, descriptor_dealloc},
    {Py_tp_methods, descriptor_methods},
    {0, NULL},
};

static PyType_Spec descriptor_spec = {
    .name = "libos_ipc._native.Descriptor",
    .basicsize = sizeof(struct descriptor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = descriptor_slots,
};

int
descriptor_setup(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &descriptor_spec, NULL);
    native_state_of(module)->descriptor = type;
    return type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
}
