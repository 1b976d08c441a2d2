/* Record: where the values of one handle lie in a slab, written so that a death tears none.
 *
 * It has room for two values. The *word* says which of them counts and which version that is, and
 * is stored last and in one piece, after everything that it speaks of; so whoever reads the slab
 * of a process that died at any moment finds one whole value. A flag beside it says that somebody
 * is between lock and unlock.
 *
 *     capacity u32, in use u32 | handle u64 | word u64 | size u32, size u32 | crc u32, crc u32 | A | B
 *     word: version << 1 | which          value: flag of a reference u8, size u64, bytes
 *
 * The slab gives records out and takes them back (runtime/slabs.py, which also reads them). This
 * is the writer's end of one of them; `release` lets go of the memory. One thread at a time, under
 * the interpreter lock. Nothing blocks or runs Python code.
 */
#ifndef LIBOS_IPC_RECORD_H
#define LIBOS_IPC_RECORD_H

#include "native.h"

/* What a small value has at most: larger ones are better summed up by a library. */
enum { RECORD_SMALL = 1024 };

/* An object that is a record, or derived from one, and has its memory yet. */
struct record;
struct record *record_of(PyObject *object);

/* Whether a value of so many bytes can be committed here. */
bool record_fits(const struct record *record, size_t size);

/* Commits a value that fits. */
void record_commit(struct record *record, uint64_t version, const void *data, size_t size);

/* Where it is: the number of its slab, and at which byte of that. */
void record_place(const struct record *record, uint64_t *slab, uint64_t *where);

/* Whether somebody is between lock and unlock. */
void record_set_use(struct record *record, bool in_use);

int record_setup(PyObject *module);

#endif
