/* Deposit: what a process has of a sync handle while nobody there uses it, where the leader can take it.
 *
 * A process keeps what it was granted, and the leader asks for it back when another process wants the
 * handle. To be asked costs two messages, and the answer waits for the other interpreter. So whoever
 * unlocks, with nobody to be told, *puts* what his process has into a word that both have mapped. Whoever
 * locks, and every step of the process's own machine, takes it back first, by compare-and-swap; and so
 * does the leader, who writes down how much less is left. Whoever comes second sees that. So the leader
 * needs nobody's help, nor does it matter whether that process computes, is stopped, or is about to die.
 *
 *     word u64: handle << 32 | epoch << 12 | slab << 4 | state      0: nothing is put there
 *     where u64: at which byte of the slab the value is that was committed here last; all ones for none, and
 *                the slab is then 255
 *     over  u64: up to which number those have ended who waited for the handle in this process
 *
 *     put:        0                          -> all there is (the process)
 *     take back:  what was put               -> 0 (the process)
 *     lower:      what was put in our epoch  -> the same with a lower state (the leader)
 *
 * The number tells the leader what it need not do any more: what was asked for those waits and comes only
 * now is over, whoever was served by what it had granted to an earlier one.
 *
 * The epoch keeps out a leader that was deposed and does not know it yet: from the moment in which a
 * process has told the next one what it has, a former one finds nothing. Before that it may take, and is
 * told of.
 *
 * A table is CELLS of these words. A handle's lies in one of the PROBES places from that of its number on,
 * which the process chooses; a handle for which all are taken has none, and is recalled by messages.
 *
 * All of it under the interpreter lock. Nothing blocks. The leader believes nothing that it reads here:
 * the word is read once, and says what that process has only where it is what the leader had granted.
 */
#ifndef LIBOS_IPC_DEPOSIT_H
#define LIBOS_IPC_DEPOSIT_H

#include "record.h"

enum { DEPOSIT_CELLS = 512, DEPOSIT_PROBES = 8 };

/* An object that is a deposit, and has its memory; else NULL. */
struct deposit;
struct deposit *deposit_of(PyObject *object);

/* Lets it be taken that the process has this state, where all waits have ended up to the number `over`,
 * with the value in this record; NULL if it has committed none. Nothing if something is put already: that
 * may be less by now. */
void deposit_put(struct deposit *deposit, uint32_t state, uint64_t over, const struct record *record);

/* Lets nothing be taken any more. False if the process does not have `state` by now. */
bool deposit_take_back(struct deposit *deposit, uint32_t state);

int deposit_setup(PyObject *module);

#endif
