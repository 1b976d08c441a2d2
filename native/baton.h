/* Baton: how processes pass EXCLUSIVE of one handle among themselves, in memory that they share.
 *
 * The leader makes it for a handle that moves from process to process, and hands it to each that asks;
 * from then on whoever has it takes EXCLUSIVE by compare-and-swap, with the newest value, and gives it
 * back likewise, with a new one. Anybody may end it at any moment, without the others' help: the
 * leader when it is asked for anything else, a process that cannot go on this way. An end is final: it
 * shows who had EXCLUSIVE in that moment, or was to have it, and that one has it from the leader from
 * then on.
 *
 *     word u64: number << 36 | holder << 4 | which half << 3 | reserved << 2 | in use << 1 | ended
 *     half, twice: version u64, size u32, 0 u32, bytes
 *
 *     take:     free, or reserved for us      -> in use by us; or it was reserved for us when it ended
 *     give:     in use by us                  -> free; the other half counts if there is a new value
 *     reserve:  free                          -> reserved for a process that is told so
 *     end:      anything                      -> the same, ended
 *
 * So a value is committed in the same step in which EXCLUSIVE is given back, or not at all. The number
 * tells one use of a place from the next one: who comes late finds another number, and so an end.
 *
 * All of it under the interpreter lock. Nothing blocks. What is read was written by another process:
 * the word is read once, size and version are bounded.
 */
#ifndef LIBOS_IPC_BATON_H
#define LIBOS_IPC_BATON_H

#include "native.h"

/* Bytes of the largest value that is passed on this way. */
enum { BATON_BYTES = 200 };

/* An object that is a baton, and has its memory; else NULL. */
struct baton;
struct baton *baton_of(PyObject *object);

/* Takes EXCLUSIVE for the process whose baton this is. False if it is not to be had. Where the baton was
 * ended while it was reserved for us, EXCLUSIVE is ours by the leader. */
bool baton_take(struct baton *baton);

/* The value, by who has taken it. The bytes are the memory's own. */
uint64_t baton_value(const struct baton *baton, const void **data, size_t *size);

/* Gives it back; with a value that fits, unless `data` is NULL. False if it was ended: then nothing
 * has been committed, and EXCLUSIVE is the process's as the leader sees it. */
bool baton_give(struct baton *baton, uint64_t version, const void *data, size_t size);

int baton_setup(PyObject *module);

#endif
