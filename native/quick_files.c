#include "quick_files.h"

#include "arguments.h"
#include "delegation.h"
#include "quick_arguments.h"
#include "system.h"
#include "thread_number.h"

#include <fcntl.h>
#include <unistd.h>

enum { POSIX = 1 /* the kind of these locks */, MOST_FILES = 16 };
enum { FEWEST = 2, MOST = 5 }; /* arguments: fd, cmd, len, start, whence */

/* What is wanted of a range: `type` is one of lock_type (lock_slot.h). */
struct quick_range {
    uint32_t type;
    uint64_t start;
    uint64_t end; /* included */
};

struct quick_file {
    PyObject *slot; /* a Delegation; NULL for a free place */
    uint64_t device;
    uint64_t inode;
    int fd;
};

struct quick_files {
    PyObject_HEAD
    const char *no_path; /* for system_file_of */
    unsigned used; /* places that may be in use */
    struct quick_file files[MOST_FILES];
};

static void quick_files_dealloc(PyObject *self);

/* NULL without an exception for an object of another type: this one is not subclassable. */
static struct quick_files *
quick_files_of(PyObject *object)
{
    const bool is_one = Py_TYPE(object)->tp_dealloc == quick_files_dealloc;
    return is_one ? (struct quick_files *)object : NULL;
}

static struct quick_file *
find(struct quick_files *self, int fd)
{
    for (unsigned i = 0; i < self->used; i++) {
        if (self->files[i].fd == fd && self->files[i].slot != NULL) {
            return &self->files[i];
        }
    }
    return NULL;
}

static void
free_place(struct quick_file *file)
{
    file->fd = -1;
    Py_CLEAR(file->slot);
}

/* What the arguments behind the descriptor mean, if that is a range from a byte on. */
static bool
range_of(PyObject *const *args, Py_ssize_t nargs, int64_t numbers[MOST], struct quick_range *range)
{
    for (Py_ssize_t i = 1; i < MOST; i++) {
        numbers[i] = 0;
        if (i < nargs && !quick_number(args[i], &numbers[i])) {
            return false;
        }
    }
    const int64_t length = numbers[2], start = numbers[3];
    if (!quick_type(numbers[1], &range->type) || length < 0 || start < 0 || numbers[4] != SEEK_SET ||
        (length > 0 && length - 1 > INT64_MAX - start)) {
        return false;
    }
    range->start = (uint64_t)start;
    range->end = length == 0 ? INT64_MAX : (uint64_t)(start + length - 1);
    return true;
}

/* Whether what was opened like this may be locked like that. */
static bool
is_fit(int flags, uint32_t type)
{
    const int mode = flags & O_ACCMODE;
    return flags >= 0 && (flags & O_PATH) == 0 && !(type == SLOT_READ && mode == O_WRONLY) &&
           !(type == SLOT_WRITE && mode == O_RDONLY);
}

/* Whether it still is what was offered, and is open for such a lock. */
static bool
is_open(struct quick_files *self, const struct quick_file *known, int fd, uint32_t type)
{
    struct system_file found;

    return system_file_of(fd, &self->no_path, &found) && found.device == known->device &&
           found.inode == known->inode &&
           (type == SLOT_NONE || is_fit(fcntl(fd, F_GETFL), type));
}

/* Locks or unlocks: whether that was done. If not, nothing has changed. */
static bool
set(struct quick_files *self, int fd, const struct quick_range *range)
{
    struct quick_file *known = find(self, fd);
    struct lock_slot *slot = known == NULL ? NULL : delegation_slot(known->slot);

    if (slot == NULL) {
        return false;
    }
    const struct lock_entry wanted = {.kind = POSIX,
                                      .type = range->type,
                                      .start = range->start,
                                      .end = range->end,
                                      .thread = thread_number(),
                                      .descriptor = fd,
                                      .duplicate = -1};
    const int64_t done = lock_slot_set(slot, &wanted);
    if (done == SLOT_GONE) {
        free_place(known);
    }
    return done >= 0;
}

int
quick_files_lockf(PyObject *files, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_files *self = quick_files_of(files);
    int64_t numbers[MOST];
    struct quick_range range;
    int fd;

    if (self == NULL || nargs < FEWEST || nargs > MOST) {
        return 0;
    }
    if (quick_descriptor(args[0], &fd) < 0) {
        return -1;
    }
    const struct quick_file *known = fd < 0 ? NULL : find(self, fd);
    if (known == NULL || !range_of(args, nargs, numbers, &range) ||
        !is_open(self, known, fd, range.type)) {
        return 0;
    }
    if (PySys_Audit("fcntl.lockf", "iiLLi", fd, (int)numbers[1], (long long)numbers[2],
                    (long long)numbers[3], (int)numbers[4]) < 0) {
        return -1;
    }
    return set(self, fd, &range);
}

/* A place for this descriptor: its own, or a free one, or one whose slot is closed. NULL for none. */
static struct quick_file *
place_for(struct quick_files *self, int fd)
{
    struct quick_file *place = find(self, fd);

    for (unsigned i = 0; place == NULL && i < MOST_FILES; i++) {
        PyObject *slot = self->files[i].slot;
        if (slot == NULL || delegation_slot(slot) == NULL) {
            place = &self->files[i];
            self->used = i < self->used ? self->used : i + 1;
        }
    }
    return place;
}

PyDoc_STRVAR(offer_doc, "offer($self, fd, device, inode, slot, /)\n--\n\n"
                        "From now on lock this file by this descriptor in this slot. False if "
                        "there are too many already.");

static PyObject *
quick_files_offer(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_files *self = quick_files_of(object);
    int64_t fd;
    uint64_t device, inode;

    if (require_count("offer", nargs, 4) < 0 || as_signed(args[0], "fd", 0, INT32_MAX, &fd) < 0 ||
        as_unsigned(args[1], "device", UINT64_MAX, &device) < 0 ||
        as_unsigned(args[2], "inode", UINT64_MAX, &inode) < 0) {
        return NULL;
    }
    if (delegation_slot(args[3]) == NULL) {
        PyErr_SetString(PyExc_ValueError, "offer() takes a slot that is open");
        return NULL;
    }
    struct quick_file *place = place_for(self, (int)fd);
    if (place == NULL) {
        Py_RETURN_FALSE;
    }
    PyObject *before = place->slot;
    *place = (struct quick_file){Py_NewRef(args[3]), device, inode, (int)fd};
    Py_XDECREF(before);
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(forget_doc, "forget($self, device, inode, /)\n--\n\n"
                         "Lock this file here no more.");

static PyObject *
quick_files_forget(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_files *self = quick_files_of(object);
    uint64_t device, inode;

    if (require_count("forget", nargs, 2) < 0 ||
        as_unsigned(args[0], "device", UINT64_MAX, &device) < 0 ||
        as_unsigned(args[1], "inode", UINT64_MAX, &inode) < 0) {
        return NULL;
    }
    for (unsigned i = 0; i < self->used; i++) {
        if (self->files[i].device == device && self->files[i].inode == inode) {
            free_place(&self->files[i]);
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(clear_doc, "clear($self, /)\n--\n\nLock nothing here any more.");

static PyObject *
quick_files_clear(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct quick_files *self = quick_files_of(object);

    for (unsigned i = 0; i < self->used; i++) {
        free_place(&self->files[i]);
    }
    self->used = 0;
    Py_RETURN_NONE;
}

static void
quick_files_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    struct quick_files *self = (struct quick_files *)object;

    for (unsigned i = 0; i < self->used; i++) {
        Py_CLEAR(self->files[i].slot);
    }
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef quick_files_methods[] = {
    {"offer", NATIVE_METHOD(quick_files_offer), METH_FASTCALL, offer_doc},
    {"forget", NATIVE_METHOD(quick_files_forget), METH_FASTCALL, forget_doc},
    {"clear", quick_files_clear, METH_NOARGS, clear_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(quick_files_doc, "QuickFiles()\n--\n\n"
                              "Files locked by `lockf` without Python; see "
                              "native/quick_files.h.");

static PyType_Slot quick_files_slots[] = {
    {Py_tp_doc, (void *)quick_files_doc},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, quick_files_dealloc},
    {Py_tp_methods, quick_files_methods},
    {0, NULL},
};

static PyType_Spec quick_files_spec = {
    .name = "libos_ipc._native.QuickFiles",
    .basicsize = sizeof(struct quick_files),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = quick_files_slots,
};

int
quick_files_setup(PyObject *module)
{
    return native_add_type(module, &quick_files_spec);
}
