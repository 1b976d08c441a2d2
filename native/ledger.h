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

#include "native.h"

/* Adds the type and its constants to the module. */
int ledger_setup(PyObject *module);

#endif
