#include "exchange_parts.h"

#include "clock.h"
#include "doorbell.h"
#include "signal_look.h"

#include <errno.h>

/* Turns of a waiting thread at the bell between two looks for signals. */
enum { TURNS = 64 };

bool
exchange_sit(struct exchange *exchange)
{
    if (exchange->halted || !lock_try(exchange->seat)) {
        return false;
    }
    exchange->waiting = 1;
    exchange->relay.promised = false;
    bell_sit(doorbell_bell(exchange->doorbell));
    return true;
}

void
exchange_stand(struct exchange *exchange)
{
    exchange->waiting = 0;
    if (bell_stand(doorbell_bell(exchange->doorbell))) {
        doorbell_nudge(exchange->doorbell, BELL_PORTER);
    }
    lock_release(exchange->seat);
}

int
exchange_handle_signals(struct exchange *exchange)
{
    exchange_stand(exchange);
    return PyErr_CheckSignals() < 0 ? -1 : exchange_sit(exchange);
}

int
exchange_sleep(struct exchange *exchange, int64_t deadline, int64_t *pause, unsigned turn)
{
    int found;

    Py_BEGIN_ALLOW_THREADS
    found = doorbell_sleep(exchange->doorbell, BELL_SEAT, until_next_look(deadline, pause));
    Py_END_ALLOW_THREADS
    if (found != EINTR && turn % TURNS != 0 && !(found == ETIMEDOUT && now_ns() < deadline)) {
        return 1;
    }
    if (found == EINTR) {
        *pause = 0;
    }
    const int seated = exchange_handle_signals(exchange);
    return seated <= 0 ? seated : 2;
}

void
exchange_leave_rest(struct exchange *exchange)
{
    if (exchange->some_left || PyList_GET_SIZE(exchange->news) > 0) {
        doorbell_nudge(exchange->doorbell, BELL_PORTER);
    }
}
