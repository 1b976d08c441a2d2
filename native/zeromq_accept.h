/* Keeps ZeroMQ from ending the process when somebody connects and no descriptor is left.
 *
 * ZeroMQ takes connections in on a thread of its own. A Unix listener of its expects accept(2) to
 * fail for several reasons, but not for EMFILE: then it aborts the process. Nothing outside
 * of it can see to it that a descriptor is free at that moment, since the program takes and gives
 * them as it likes. So the entry by which the library finds `accept4` (and `accept`) is pointed at a
 * function here, which does the same, and makes of EMFILE, after a short wait, "nobody is there".
 * The connection waits in the kernel meanwhile, and is taken in once a descriptor is free.
 *
 * Only the tables of the one object that holds ZeroMQ are changed: a word in each, written whole,
 * and nobody else's accept is touched. Linux with ELF tables of addends (all 64-bit systems).
 */
#ifndef LIBOS_IPC_ZEROMQ_ACCEPT_H
#define LIBOS_IPC_ZEROMQ_ACCEPT_H

#include "native.h"

/* Points the library that `function` is part of at the patient ones, unless it is already. The number
 * of entries that are so now: 0 where the tables are not understood, and all stays as it was. Needs
 * no interpreter. */
int zeromq_accept_patiently(const void *function);

#endif
