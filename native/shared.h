/* Memory that another process has mapped too, and that nobody can take away from under us.
 *
 * It is a memfd that is sealed against shrinking and growing: a process that could cut it short
 * would end whoever reads it. Others find it in /proc by the descriptor of whoever made it, who closes it
 * when it was found. Mapping and descriptor belong to the object: a signal handler that raises in any
 * moment leaves neither behind. What is found is checked before anything is read, and its descriptor
 * closed at once. The interpreter lock is released meanwhile.
 */
#ifndef LIBOS_IPC_SHARED_H
#define LIBOS_IPC_SHARED_H

#include "native.h"

/* The bytes of a Shared object, and how many; NULL with TypeError if it is none. */
void *shared_memory(PyObject *object, size_t *size);

int shared_setup(PyObject *module);

#endif
