/* What the files of the ledger share.
 *
 *   ledger.c         the accounts: what is sent, received, acknowledged, owed
 *   ledger_object.c  the object that Python sees
 */
#ifndef LIBOS_IPC_LEDGER_PARTS_H
#define LIBOS_IPC_LEDGER_PARTS_H

#include "ledger.h"

/* Seconds without progress after which the peer is asked for the first time. */
#define FIRST_PROBE_S 0.25

struct ledger {
    PyObject_HEAD
    unsigned long long sent;
    unsigned long long acked;
    unsigned long long sent_bytes;
    unsigned long long credited;
    unsigned long long delivered;
    unsigned long long announced_ack;
    unsigned long long received_bytes;
    unsigned long long consumed;
    unsigned long long announced_credit;
    double probe_at;
    double probe_interval;
    char starving;
    struct kept kept; /* messages acked+1 … sent */
    PyObject *kind;   /* what those are to Python that it has not given; NULL if it has given all */
};

static inline struct ledger *
ledger_of(PyObject *self)
{
    return (struct ledger *)self;
}

/* Takes the oldest kept message out; it becomes the caller's. There is one. */
PyObject *ledger_forget_oldest(struct ledger *ledger);

#endif
