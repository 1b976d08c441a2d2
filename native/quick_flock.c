#include "quick_flocks_parts.h"

#include "arguments.h"
#include "delegation.h"
#include "descriptor.h"
#include "quick_arguments.h"
#include "system.h"
#include "thread_number.h"

#include <fcntl.h>

enum { FLOCK = 3 }; /* the kind of these locks */

/* ---- what is known */

/* The offer of this file whose slot is open, or NULL. */
static struct offer *
find_offer(struct quick_flocks *self, uint64_t device, uint64_t inode)
{
    for (unsigned i = 0; i < MOST_FILES; i++) {
        struct offer *offer = &self->offers[i];
        if (offer->slot != NULL && offer->device == device && offer->inode == inode) {
            return delegation_slot(offer->slot) == NULL ? NULL : offer;
        }
    }
    return NULL;
}

/* What is locked by this very description, and was locked by this number. */
static struct locked *
find_locked(struct quick_flocks *self, int fd)
{
    for (unsigned i = 0; i < MOST_LOCKED; i++) {
        struct locked *locked = &self->locked[i];
        if (locked->duplicate != NULL && locked->fd == fd &&
            system_is_same_file(fd, descriptor_number(locked->duplicate)) == 1) {
            return locked;
        }
    }
    return NULL;
}

/* Whether a descriptor is certainly of another description than a duplicate, if that is open. */
static bool
differs(int fd, const PyObject *duplicate)
{
    const int number = descriptor_number(duplicate);
    return number < 0 || system_is_same_file(fd, number) == 0;
}

/* Whether this is certainly none of the file's descriptions that are known, here or to Python. */
static bool
is_another(const struct quick_flocks *self, int fd, const struct offer *offer)
{
    for (unsigned i = 0; i < MOST_LOCKED; i++) {
        const struct locked *locked = &self->locked[i];
        if (locked->duplicate != NULL && locked->device == offer->device &&
            locked->inode == offer->inode && !differs(fd, locked->duplicate)) {
            return false;
        }
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(offer->others); i++) {
        if (!differs(fd, PyTuple_GET_ITEM(offer->others, i))) {
            return false;
        }
    }
    return true;
}

/* The offer that a descriptor leads to, if that can be told without waiting for a file system. */
static struct offer *
offer_of(struct quick_flocks *self, int fd)
{
    struct system_file found;

    return system_file_of(fd, &self->no_path, &found) ? find_offer(self, found.device, found.inode) : NULL;
}

/* ---- locking */

static struct lock_entry
entry_of(const struct locked *locked, uint32_t type)
{
    return (struct lock_entry){.kind = FLOCK,
                               .type = type,
                               .end = INT64_MAX,
                               .handle = locked->handle,
                               .thread = thread_number(),
                               .descriptor = locked->fd,
                               .duplicate = descriptor_number(locked->duplicate)};
}

/* Another type for what is locked, or none: whether that was done. */
static bool
convert(struct quick_flocks *self, struct locked *locked, uint32_t type)
{
    const struct offer *offer = find_offer(self, locked->device, locked->inode);
    const struct lock_entry wanted = entry_of(locked, type);

    if (offer == NULL || lock_slot_set(delegation_slot(offer->slot), &wanted) < 0) {
        return false;
    }
    if (type == SLOT_NONE) {
        self->changes++;
        Py_CLEAR(locked->duplicate); /* others run while it is closed */
    }
    return true;
}

/* The next of the numbers, as a handle; 0, perhaps with an exception, if there is none. */
static uint64_t
next_handle(struct quick_flocks *self, const struct offer *offer)
{
    PyObject *next = PyIter_Next(self->numbers);
    uint64_t number = 0;

    if (next != NULL && as_unsigned(next, "number", UINT32_MAX, &number) < 0) {
        number = 0;
    }
    Py_XDECREF(next);
    return number == 0 ? 0 : offer->base + number;
}

/* The first lock of a description: whether it is done. An exception may be set if not. */
static bool
take(struct quick_flocks *self, const struct offer *offer, int fd, uint32_t type)
{
    const struct native_state *state = PyType_GetModuleState(Py_TYPE(self));
    const uint64_t changes = self->changes;
    const uint64_t handle = next_handle(self, offer);
    struct locked *place = quick_flocks_free_place(self);
    const int flags = fcntl(fd, F_GETFL);

    if (handle == 0 || place == NULL || flags < 0 || (flags & O_PATH) != 0 ||
        self->changes != changes || delegation_slot(offer->slot) == NULL) {
        return false;
    }
    struct locked locked = {descriptor_duplicate(state->descriptor, fd, self->lowest),
                            offer->device, offer->inode, handle, fd};
    if (locked.duplicate == NULL) {
        return false;
    }
    const struct lock_entry wanted = entry_of(&locked, type);
    if (lock_slot_set(delegation_slot(offer->slot), &wanted) < 0) {
        Py_DECREF(locked.duplicate);
        return false;
    }
    *place = locked;
    self->changes++;
    return true;
}

int
quick_flocks_flock(PyObject *files, PyObject *const *args, Py_ssize_t nargs)
{
    struct quick_flocks *self = quick_flocks_of(files);
    struct offer *offer = NULL;
    uint32_t type;
    int64_t operation;
    int fd;

    if (self == NULL || nargs != 2 || !quick_number(args[1], &operation) ||
        !quick_type(operation, &type)) {
        return 0;
    }
    if (quick_descriptor(args[0], &fd) < 0) {
        return -1;
    }
    struct locked *locked = fd < 0 ? NULL : find_locked(self, fd);
    if (locked == NULL) {
        offer = fd < 0 || type == SLOT_NONE ? NULL : offer_of(self, fd);
        if (offer == NULL || !is_another(self, fd, offer)) {
            return 0;
        }
    }
    const uint64_t changes = self->changes;
    if (PySys_Audit("fcntl.flock", "ii", fd, (int)operation) < 0) {
        return -1;
    }
    if (self->changes != changes) {
        return 0; /* a hook has let other threads run */
    }
    return locked != NULL ? convert(self, locked, type)
                          : find_offer(self, offer->device, offer->inode) == offer &&
                                take(self, offer, fd, type);
}
