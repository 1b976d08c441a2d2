/* A file that the leader has given to one process to lock and unlock by itself, in shared memory.
 *
 * A *slot* is a word and two tables of locks; the word says which table counts, and whether the
 * leader has taken the file back. The holder writes the other table and then swings the word to
 * it by compare-and-swap; the leader sets one bit in the word, also by compare-and-swap, and reads
 * the table that counts. So either a change was published before the file was taken back, and
 * the leader sees it, or it was not, and the holder sees that. Neither ever waits for the
 * other, which may be stopped or dead at any point.
 *
 *     word u64: version << 2 | which table << 1 | taken back
 *     table, twice: count u64, next number u64, last number u64, entries
 *     entry: handle u64, start u64, end u64, number u64, type u32, thread u32
 *
 * Several threads of the holder are kept apart by the interpreter lock, which is not released
 * here; nothing blocks. What the leader reads was written by another process: every number is
 * read once, and is bounded before it is used.
 */
#ifndef LIBOS_IPC_DELEGATION_H
#define LIBOS_IPC_DELEGATION_H

#include "native.h"

int delegation_setup(PyObject *module);

#endif
