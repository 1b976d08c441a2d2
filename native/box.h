/* Box: what an exclusive block is given to change (section.h): one value. A base. */
#ifndef LIBOS_IPC_BOX_H
#define LIBOS_IPC_BOX_H

#include "native.h"

struct box {
    PyObject_HEAD
    PyObject *value;
};

static inline struct box *
box_of(PyObject *self)
{
    return (struct box *)self;
}

/* Whether this is a kind of boxes. */
bool box_check_type(PyObject *type);

int box_setup(PyObject *module);

#endif
