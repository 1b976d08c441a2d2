/* Ledger: what one end of a link counts, and the messages that it keeps, for Python.
 *
 * The part of a link that every message passes: numbering and keeping what goes out, recognizing
 * what comes in, forgetting what has been acknowledged, and the two running totals behind the
 * bound in bytes. What happens less often than once per message is a subclass's, in Python.
 *
 *   out   kept numbers are acked+1 … sent          owed bytes are sent_bytes - credited
 *   in    delivered is the last number in order    announced_ack what the peer was told of it
 *
 * Only the methods change `sent`, `acked` and what is kept, so these always fit together; the
 * other counts are plain attributes. Nothing blocks. A kept message is dropped, which may run any
 * Python code including calls into the same ledger, only when the ledger is consistent again. The
 * methods rely on the interpreter lock, as those of Outstanding do.
 */
#ifndef LIBOS_IPC_LEDGER_H
#define LIBOS_IPC_LEDGER_H

#include "kept.h"

#include <math.h>

/* What `receive` found, as bits. */
enum { NEXT = 1, DRAINED = 2 };

/* As a time: that of the kernel's last tick, read if it is needed, which is seldom. */
#define LEDGER_RECENTLY ((double)NAN)

/* The same steps for other files of the extension, of an object that is a Ledger. `ledger_stamp` is
 * -1 with MemoryError, `ledger_receive` with ValueError; and this one may drop messages, and with
 * them run Python code. To Python a message that was not given whole is of this kind of tuple, always
 * the same. */
int ledger_stamp(PyObject *self, PyObject *kind, const struct kept_message *message, uint64_t size,
                 double now, uint64_t *number);
int ledger_receive(PyObject *self, uint64_t number, uint64_t acked, uint64_t size, double now);
uint64_t ledger_acknowledge(PyObject *self);
bool ledger_has_room(PyObject *self, uint64_t size, uint64_t limit);
bool ledger_is_next(PyObject *self, uint64_t number, uint64_t acked); /* `receive` would not fail */
bool ledger_ack_due(PyObject *self, uint64_t every);
bool ledger_consume(PyObject *self, uint64_t size, uint64_t quantum);

/* Adds the type and its constants to the module. */
int ledger_setup(PyObject *module);

#endif
