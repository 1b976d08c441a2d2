/* Memory that another process has mapped too, and that nobody can take away from under us.
 *
 * It is a memfd that is sealed against shrinking and growing: a process that could cut it short
 * would end whoever reads it. The mapping lives as long as its object; the descriptor need not.
 */
#ifndef LIBOS_IPC_SHARED_H
#define LIBOS_IPC_SHARED_H

#include "native.h"

/* The bytes of a Shared object, and how many; NULL with TypeError if it is none. */
void *shared_memory(PyObject *object, size_t *size);

int shared_setup(PyObject *module);

#endif
