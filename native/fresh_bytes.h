/* Bytes that are about to be filled: a payload that arrives. */
#ifndef LIBOS_IPC_FRESH_BYTES_H
#define LIBOS_IPC_FRESH_BYTES_H

#include "native.h"

/* Bytes without contents. NULL with MemoryError, also if there cannot be so many. Memory that the system
 * has yet to give comes page by page as it is filled, which takes several times what copying does: so
 * large ones have huge pages, where the system has such and gives them on advice. */
PyObject *fresh_bytes(uint64_t size);

#endif
