#define _GNU_SOURCE /* the seals */

#include "shared.h"

#include "arguments.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW };

struct shared {
    PyObject_HEAD
    void *memory;
    size_t size;
};

static struct shared *
shared_of(PyObject *self)
{
    return (struct shared *)self;
}

/* 0, or -1 with errno: EINVAL for what is no sealed memory of this size. */
static int
check(int fd, size_t size)
{
    struct stat found;
    const int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || fstat(fd, &found) < 0) {
        return -1;
    }
    if ((seals & SEALS) != SEALS || size == 0 || found.st_size != (off_t)size) {
        errno = EINVAL;
        return -1;
    }
    return 0;
}

static PyObject *
shared_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "size", NULL};
    int fd;
    Py_ssize_t size;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "in:Shared", names, &fd, &size)) {
        return NULL;
    }
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "memory of less than no bytes");
        return NULL;
    }
    if (check(fd, (size_t)size) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    void *memory = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    shared_of(self)->memory = memory;
    shared_of(self)->size = (size_t)size;
    return self;
}

static void
shared_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    if (shared_of(self)->memory != NULL) {
        munmap(shared_of(self)->memory, shared_of(self)->size);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
void *
shared_memory(PyObject *object, size_t *size)
{
    if (Py_TYPE(object)->tp_dealloc != shared_dealloc) {
        PyErr_Format(PyExc_TypeError, "memory must be Shared, not %.100s",
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    *size = shared_of(object)->size;
    return shared_of(object)->memory;
}

static int
shared_get_buffer(PyObject *self, Py_buffer *view, int flags)
{
    const struct shared *shared = shared_of(self);
    return PyBuffer_FillInfo(view, self, shared->memory, (Py_ssize_t)shared->size, 0, flags);
}

PyDoc_STRVAR(shared_doc, "Shared(fd, size)\n--\n\n"
                         "The memory behind a memfd that is sealed against any change of its size. "
                         "OSError if it is none, or has another size.");

static PyType_Slot shared_slots[] = {
    {Py_tp_doc, (void *)shared_doc},
    {Py_tp_new, shared_new},
    {Py_tp_dealloc, shared_dealloc},
    {Py_bf_getbuffer, shared_get_buffer},
    {0, NULL},
};

static PyType_Spec shared_spec = {
    .name = "libos_ipc._native.Shared",
    .basicsize = sizeof(struct shared),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = shared_slots,
};

int
shared_setup(PyObject *module)
{
    return native_add_type(module, &shared_spec);
}
