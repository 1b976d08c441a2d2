/* Word: one number of 64 bits in memory that processes share, changed in one step or not at all. */
#ifndef LIBOS_IPC_WORD_H
#define LIBOS_IPC_WORD_H

#include "native.h"

/* exchange_word(memory, offset, expected, desired) -> what was there: `desired` is there now if that
 * was `expected`. Memory is a writable buffer; ValueError where no aligned word of it is. */
int word_setup(PyObject *module);

#endif
