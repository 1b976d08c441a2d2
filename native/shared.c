#define _GNU_SOURCE /* the seals */

#include "shared.h"

#include "arguments.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "libos_ipc"

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW };

struct shared {
    PyObject_HEAD
    void *memory; /* NULL if it could not be mapped */
    size_t size;
    int fd; /* -1 once closed */
};

static struct shared *
shared_of(PyObject *self)
{
    return (struct shared *)self;
}

static void
close_descriptor(struct shared *shared)
{
    const int fd = shared->fd;

    shared->fd = -1;
    if (fd >= 0) {
        close(fd);
    }
}

/* Makes memory. 0, -1 with errno. */
static int
make(struct shared *shared)
{
    shared->fd = memfd_create(NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (shared->fd < 0 || ftruncate(shared->fd, (off_t)shared->size) < 0) {
        return -1;
    }
    return fcntl(shared->fd, F_ADD_SEALS, SEALS);
}

/* Whether what lies at the path is a memfd of our name: 0, -1 with errno. That is asked before anything
 * is opened, since opening alone does something to a device or a pipe. */
static int
check_name(const char *path)
{
    static const char wanted[] = "/memfd:" NAME " ";
    enum { LENGTH = sizeof wanted - 1 };
    char found[LENGTH];
    const ssize_t length = readlink(path, found, LENGTH);

    if (length >= 0 && (length < LENGTH || memcmp(found, wanted, LENGTH) != 0)) {
        errno = EINVAL;
        return -1;
    }
    return length < 0 ? -1 : 0;
}

/* Opens memory that somebody else has made. 0, or -1 with errno: EINVAL for what is no sealed memory of
 * this size. */
static int
find(struct shared *shared, const char *path)
{
    struct stat file;

    if (check_name(path) < 0) {
        return -1;
    }
    shared->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    const int seals = shared->fd < 0 ? -1 : fcntl(shared->fd, F_GET_SEALS);
    if (seals < 0 || fstat(shared->fd, &file) < 0) {
        return -1;
    }
    if ((seals & SEALS) != SEALS || file.st_size != (off_t)shared->size) {
        errno = EINVAL;
        return -1;
    }
    return 0;
}

/* Maps what is made, or found at a path; what was found is not kept open. 0, or an errno. */
static int
map(struct shared *shared, const char *path)
{
    if ((path == NULL ? make(shared) : find(shared, path)) < 0) {
        return errno;
    }
    void *memory = mmap(NULL, shared->size, PROT_READ | PROT_WRITE, MAP_SHARED, shared->fd, 0);
    if (memory == MAP_FAILED) {
        return errno;
    }
    shared->memory = memory;
    if (path != NULL) {
        close_descriptor(shared);
    }
    return 0;
}

static PyObject *
shared_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"size", "path", NULL};
    const char *path = NULL;
    Py_ssize_t size;
    int failed;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n|z:Shared", names, &size, &path)) {
        return NULL;
    }
    if (size <= 0) {
        PyErr_SetString(PyExc_ValueError, "memory of no bytes, or less");
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    shared_of(self)->size = (size_t)size;
    shared_of(self)->fd = -1;
    Py_BEGIN_ALLOW_THREADS
    failed = map(shared_of(self), path);
    Py_END_ALLOW_THREADS
    if (failed) {
        Py_DECREF(self);
        errno = failed;
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    }
    return self;
}

static void
shared_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    close_descriptor(shared_of(self));
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

PyDoc_STRVAR(fileno_doc, "fileno($self, /)\n--\n\n"
                         "The descriptor by which others find memory that was made; -1 if there is none.");

static PyObject *
shared_fileno(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(shared_of(self)->fd);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Nobody else needs to find it any more: close the descriptor. It stays mapped.");

static PyObject *
shared_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    close_descriptor(shared_of(self));
    Py_RETURN_NONE;
}

static PyMethodDef shared_methods[] = {
    {"fileno", shared_fileno, METH_NOARGS, fileno_doc},
    {"close", shared_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(shared_doc, "Shared(size, path=None)\n--\n\n"
                         "New memory of so many bytes, or what lies at `path`, a name in /proc of a "
                         "descriptor. OSError if there is none, or it is no sealed memory of this size.");

static PyType_Slot shared_slots[] = {
    {Py_tp_doc, (void *)shared_doc},
    {Py_tp_new, shared_new},
    {Py_tp_dealloc, shared_dealloc},
    {Py_tp_methods, shared_methods},
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
