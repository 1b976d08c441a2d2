#include "ledger_parts.h"

#include "clock.h"

static void
rest(struct ledger *ledger, double now)
{
    const double at = isnan(now) ? (double)recent_ns() / NS_PER_S : now;

    ledger->probe_interval = FIRST_PROBE_S;
    ledger->probe_at = at + FIRST_PROBE_S;
}

PyObject *
ledger_forget_oldest(struct ledger *ledger)
{
    ledger->acked++;
    return kept_take(&ledger->kept);
}

int
ledger_stamp(PyObject *self, PyObject *kind, const struct kept_message *message, uint64_t size,
             double now, uint64_t *number)
{
    struct ledger *ledger = ledger_of(self);

    if (kept_reserve(&ledger->kept) < 0) {
        return -1;
    }
    if (ledger->kind == NULL) {
        ledger->kind = Py_XNewRef(kind);
    }
    if (ledger->kept.count == 0) {
        rest(ledger, now);
    }
    kept_append(&ledger->kept, message);
    ledger->sent_bytes += size;
    *number = ++ledger->sent;
    return 0;
}

/* The peer has everything up to `acked`. Whether that was the last that was kept; -1 with
 * ValueError if so much was not sent. */
static int
acknowledged(struct ledger *ledger, uint64_t acked, double now)
{
    if (acked <= ledger->acked) {
        return 0;
    }
    if (acked > ledger->sent) {
        PyErr_Format(PyExc_ValueError, "acknowledges %llu, but only %llu were sent",
                     (unsigned long long)acked, ledger->sent);
        return -1;
    }
    while (ledger->acked < acked) {
        PyObject *message = ledger_forget_oldest(ledger);
        Py_DECREF(message);
    }
    if (ledger->kept.count == 0) {
        return DRAINED;
    }
    rest(ledger, now);
    return 0;
}

int
ledger_receive(PyObject *self, uint64_t number, uint64_t acked, uint64_t size, double now)
{
    struct ledger *ledger = ledger_of(self);
    int found = acknowledged(ledger, acked, now);

    if (found >= 0 && number != 0 && number - 1 == ledger->delivered) {
        ledger->delivered = number;
        ledger->received_bytes += size;
        found |= NEXT;
    }
    return found;
}

bool
ledger_is_next(PyObject *self, uint64_t number, uint64_t acked)
{
    const struct ledger *ledger = ledger_of(self);

    return number != 0 && number - 1 == ledger->delivered && acked <= ledger->sent;
}

uint64_t
ledger_acknowledge(PyObject *self)
{
    struct ledger *ledger = ledger_of(self);

    ledger->announced_ack = ledger->delivered;
    return ledger->delivered;
}

bool
ledger_ack_due(PyObject *self, uint64_t every)
{
    const struct ledger *ledger = ledger_of(self);

    return ledger->delivered - ledger->announced_ack >= every;
}

bool
ledger_has_room(PyObject *self, uint64_t size, uint64_t limit)
{
    const struct ledger *ledger = ledger_of(self);
    const unsigned long long owed = ledger->sent_bytes - ledger->credited;

    return owed == 0 || (owed <= limit && size <= limit - owed);
}

bool
ledger_consume(PyObject *self, uint64_t size, uint64_t quantum)
{
    struct ledger *ledger = ledger_of(self);

    ledger->consumed += size;
    const unsigned long long news = ledger->consumed - ledger->announced_credit;
    const bool all = ledger->starving && ledger->consumed == ledger->received_bytes;
    return news >= quantum || (all && news > 0);
}
