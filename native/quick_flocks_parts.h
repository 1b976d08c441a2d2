/* What QuickFlocks knows, for the file that locks (quick_flock.c) and the one that is told what
 * (quick_flocks.c).
 */
#ifndef LIBOS_IPC_QUICK_FLOCKS_PARTS_H
#define LIBOS_IPC_QUICK_FLOCKS_PARTS_H

#include "quick_flocks.h"

enum { MOST_FILES = 16, MOST_LOCKED = 16 };

/* A file that was offered. */
struct offer {
    PyObject *slot;   /* a Delegation; NULL for a free place */
    PyObject *others; /* a tuple of Descriptors: the descriptions that Python knows */
    uint64_t device;
    uint64_t inode;
    uint64_t base; /* of handles; a number is added to it */
};

/* A description that has a lock. */
struct locked {
    PyObject *duplicate; /* a Descriptor; NULL for a free place */
    uint64_t device;
    uint64_t inode;
    uint64_t handle;
    int fd; /* by which it was locked */
};

struct quick_flocks {
    PyObject_HEAD
    PyObject *numbers; /* an iterator: each handle has its own */
    const char *no_path; /* for system_file_of */
    int lowest;        /* number of a duplicate */
    uint64_t turn;     /* how often all was withdrawn */
    uint64_t changes;  /* how often anything here has changed */
    struct offer offers[MOST_FILES];
    struct locked locked[MOST_LOCKED];
};

/* NULL without an exception for an object of another type: this one is not subclassable. */
struct quick_flocks *quick_flocks_of(PyObject *object);

/* A place for one more description, or NULL. */
struct locked *quick_flocks_free_place(struct quick_flocks *self);

#endif
