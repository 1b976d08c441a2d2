/* The bell of this process, for Python. Contract of what is beneath: bell.h. */
#ifndef LIBOS_IPC_DOORBELL_H
#define LIBOS_IPC_DOORBELL_H

#include "native.h"

#include "vigil.h"

/* The bell of a Doorbell; NULL with TypeError if it is none. */
struct bell *doorbell_bell(PyObject *object);

/* Sleep on the bell of a Doorbell, as `bell_sleep` does. Needs no interpreter lock. */
int doorbell_sleep(PyObject *object, uint32_t who, int64_t deadline);

/* Wake who sleeps as `who`, though nothing was rung. */
void doorbell_nudge(PyObject *object, uint32_t who);

/* Nanoseconds that SEAT looks before it sleeps. */
int64_t doorbell_spin(PyObject *object);

/* SEAT looks until then, of clock.h, and does not sleep: whether something was rung. Not at all if that was
 * in vain before it slept the last time, or was rung on this processor. */
bool doorbell_glance(PyObject *object, int64_t until);

/* The vigil over the seat of a Doorbell. */
struct vigil *doorbell_vigil(PyObject *object);

int doorbell_setup(PyObject *module);

#endif
