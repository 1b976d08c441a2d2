/* What the files of LocalIds share.
 *
 *   local_ids.c        the object, and the machine as Python steps it
 *   local_ids_quick.c  IDs handed out and taken back without Python
 */
#ifndef LIBOS_IPC_LOCAL_IDS_PARTS_H
#define LIBOS_IPC_LOCAL_IDS_PARTS_H

#include "local_ids.h"

#include "id_ranges.h"

struct local_ids {
    PyObject_HEAD
    struct id_ranges ids;
    PyObject *lock; /* of the session; NULL if none is offered */
    uint64_t own;   /* the ID of this process, which `put` does not take */
    char asked;
};

static inline struct local_ids *
local_ids_of(PyObject *self)
{
    return (struct local_ids *)self;
}

/* An ID from Python; 0, which no ID is, for an int that cannot be one. -1 with TypeError. */
int local_ids_number(PyObject *value, uint64_t *id);

/* ---- methods */

PyObject *local_ids_offer(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *local_ids_withdraw(PyObject *self, PyObject *nothing);
PyObject *local_ids_take(PyObject *self, PyObject *nothing);
PyObject *local_ids_put(PyObject *self, PyObject *id);

#endif
