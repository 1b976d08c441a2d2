#include "exchange_parts.h"

#include "clock.h"
#include "doorbell.h"
#include "signal_look.h"
#include "ticket.h"

#include <errno.h>

/* Reads in one turn at the bell, and turns between two sleeps, which handle signals. */
enum { READS = 8, TURNS = 64 };

/* A turn, and for how long an answer is awaited in it while others are ready. */
static const int64_t TURN_NS = 50000;
static const int64_t SOON_NS = 20000;

/* For how long an answer is looked for with the interpreter lock held: longer than a thread takes that
 * wakes on the processor of who answers, only to find that it does not get that lock. */
static const int64_t AT_HAND_NS = 40000;

/* Failures in a row that make no difference any more. */
enum { MOST_FAILURES = 5 };

/* When a sleeper looks for the first time, alone and for each other one, and then. */
static const int64_t FIRST_LOOK_NS = 250000;
static const int64_t LOOK_NS = 500000;

/* How soon a thread waits again, or another, if they follow closely; how often in a row they have to; and
 * how much more often after it was believed in vain, which is forgotten one by one. */
static const int64_t CLOSELY_NS = 50000;
enum { CLOSE_ENOUGH = 4, LEAST_DOUBT = 16, MOST_DOUBT = 4096 };

static bool
is_close(const struct exchange *exchange)
{
    return exchange->relay.close >= CLOSE_ENOUGH;
}

static bool
is_anybody_ready(const struct exchange *exchange)
{
    return exchange->relay.ready.next != &exchange->relay.ready;
}

void
relay_enter(struct exchange *exchange)
{
    struct relay *relay = &exchange->relay;

    if (relay->left_at != 0) {
        const bool closely = now_ns() - relay->left_at < CLOSELY_NS;
        if (!closely) {
            relay->close = relay->close < 0 ? relay->close : 0;
        } else if (relay->close < CLOSE_ENOUGH) {
            relay->close++;
        } else if (relay->doubt > 0) {
            relay->doubt--;
        }
        relay->left_at = 0;
    }
}

/* One was believed to come back, and did not. */
static void
come_to_doubt(struct relay *relay)
{
    const int doubt = LEAST_DOUBT + 4 * relay->doubt;

    relay->doubt = doubt < MOST_DOUBT ? doubt : MOST_DOUBT;
    relay->close = -relay->doubt;
}

/* Nobody is awake on our behalf any more, unless somebody has taken the seat. In a forked child the bell
 * is the parent's. */
static void
end_promise(struct exchange *exchange)
{
    if (exchange->relay.promised && !exchange->closed &&
        bell_stand(doorbell_bell(exchange->doorbell))) {
        doorbell_nudge(exchange->doorbell, BELL_PORTER);
    }
    exchange->relay.promised = false;
}

/* Leaves the seat, but counts as awake: somebody will look soon. */
static void
slip_off(struct exchange *exchange)
{
    exchange->waiting = 0;
    exchange->relay.promised = true;
    lock_release(exchange->seat);
}

void
relay_wake(struct exchange *exchange)
{
    if (is_anybody_ready(exchange)) {
        sleeper_wake(ticket_next(&exchange->relay.ready));
    }
}

void
relay_leave(struct exchange *exchange, bool seated)
{
    struct relay *relay = &exchange->relay;
    const bool kept = relay->watchful > 0 && is_close(exchange) && !relay->swift;

    relay->left_at = relay->watchful > 0 ? now_ns() : 0;
    if (seated && kept) {
        slip_off(exchange);
    } else if (seated) {
        exchange_stand(exchange);
    } else if (!kept) {
        end_promise(exchange);
    }
    if (!kept) {
        relay_wake(exchange);
    }
}

int
relay_read(struct exchange *exchange, PyObject *ticket)
{
    const struct found found = {NULL, NULL};
    int read = 1;

    if (!lock_try(exchange->rounds)) {
        return 0;
    }
    for (int i = 0; read > 0 && i < READS && (ticket == NULL || !ticket_is_settled(ticket)); i++) {
        read = exchange_read_rung(exchange, &found);
    }
    if (read != 0) {
        bell_rest(doorbell_bell(exchange->doorbell));
    }
    lock_release(exchange->rounds);
    exchange_leave_rest(exchange);
    return read < 0 ? -1 : 1;
}

/* Whether it is worth a try: after one failure at once, then less and less often. */
static bool
is_worth_trying(struct hope *hope)
{
    const unsigned pause = hope->failures == 0 ? 0 : (1U << (hope->failures - 1)) - 1;

    if (hope->skipped < pause) {
        hope->skipped++;
        return false;
    }
    hope->skipped = 0;
    return true;
}

static bool
learn(struct hope *hope, bool fulfilled)
{
    hope->failures = fulfilled ? 0 : hope->failures < MOST_FAILURES ? hope->failures + 1 : MOST_FAILURES;
    return fulfilled;
}

/* Whether something is rung while we look for it with the interpreter lock held. */
static bool
is_at_hand(struct exchange *exchange)
{
    struct relay *relay = &exchange->relay;
    const bool tried = is_worth_trying(&relay->at_hand);
    const bool found =
        tried && learn(&relay->at_hand, doorbell_glance(exchange->doorbell, now_ns() + AT_HAND_NS));

    relay->swift = tried && relay->at_hand.failures < 2;
    return found;
}

/* Others are ready, but it is our turn still: whether something is rung before long. */
static bool
is_soon(struct exchange *exchange)
{
    struct relay *relay = &exchange->relay;

    if (!is_worth_trying(&relay->soon)) {
        return false;
    }
    const int64_t now = now_ns();
    if (now - atomic_load(&relay->began) >= TURN_NS) {
        return false;
    }
    Py_BEGIN_ALLOW_THREADS
    doorbell_sleep(exchange->doorbell, BELL_SEAT, now + SOON_NS);
    Py_END_ALLOW_THREADS
    return learn(&relay->soon, bell_is_rung(doorbell_bell(exchange->doorbell)));
}

/* Waits on the seat until the ticket is settled, or it is too late, or somebody is ready, to whom the seat
 * is left; or somebody else reads what comes. Whether we still have the seat; -1 with an exception, and
 * it is left. */
static int
wait_seated(struct exchange *exchange, PyObject *ticket, int64_t deadline, int64_t *pause)
{
    const struct bell *bell = doorbell_bell(exchange->doorbell);

    for (unsigned turn = 1; !exchange->halted; turn++) {
        bool rung = bell_is_rung(bell) || is_at_hand(exchange);
        if (!rung && is_anybody_ready(exchange)) {
            rung = is_soon(exchange);
            if (!rung) {
                slip_off(exchange);
                return 0;
            }
        }
        const bool at_once = rung && turn % TURNS != 0;
        int state = at_once ? 1 : exchange_sleep(exchange, deadline, pause, turn);
        if (state <= 0) {
            return state; /* the seat is lost already */
        }
        if (state == 1) {
            state = relay_read(exchange, ticket);
        }
        if (state <= 0) {
            exchange_stand(exchange);
            return state;
        }
        if (ticket_is_settled(ticket) || (deadline != INT64_MAX && now_ns() >= deadline)) {
            return 1;
        }
    }
    exchange_stand(exchange);
    return 0;
}

/* Sleeps off the seat, and wakes who is ready unless somebody sits, who will. 0, or an errno. If a watch was
 * over, and one who had gone has not come back meanwhile, as a thread does that only lacked a processor, that
 * one was believed in vain. */
static int
sleep_aside(struct exchange *exchange, PyObject *ticket, int64_t until, bool watchful)
{
    struct relay *relay = &exchange->relay;
    const struct watch watch = {&relay->began, FIRST_LOOK_NS + 2 * TURN_NS * relay->watchful, LOOK_NS};
    sleeper *next = lock_is_held(exchange->seat) ? NULL : ticket_next(&relay->ready);

    if (!watchful && relay->watchful == 0) {
        end_promise(exchange);
    }
    relay->watchful += watchful;
    const int found = ticket_sleep(ticket, until, watchful ? &watch : NULL, next);
    relay->watchful -= watchful;
    const bool uncalled = ticket_leave_turn(ticket);
    const bool unread = !ticket_is_settled(ticket) && !lock_is_held(exchange->seat);
    if (found == ETIMEDOUT && watchful && relay->left_at != 0 && (uncalled || unread)) {
        come_to_doubt(relay);
    }
    atomic_store(&relay->began, now_ns());
    return found;
}

int
relay_wait(struct exchange *exchange, PyObject *ticket, int64_t deadline, bool seated)
{
    int64_t pause = 0;
    bool watchful = true;
    int kept = 0;

    while (!ticket_is_settled(ticket)) {
        if (seated) {
            kept = wait_seated(exchange, ticket, deadline, &pause);
            seated = kept > 0;
            if (kept != 0 || ticket_is_settled(ticket)) {
                break;
            }
        }
        const int64_t until = until_next_look(deadline, &pause);
        const int found = sleep_aside(exchange, ticket, until, watchful && !exchange->relay.swift);
        pause = found == EINTR ? 0 : pause;
        if (found != EINTR && found != ETIMEDOUT) {
            continue;
        }
        relay_leave(exchange, false);
        exchange->relay.left_at = 0;
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (found == ETIMEDOUT && now_ns() >= deadline) {
            return ticket_is_settled(ticket);
        }
        if (found == ETIMEDOUT && watchful && !ticket_is_settled(ticket)) {
            seated = exchange_sit(exchange);
        }
        watchful = false;
    }
    relay_leave(exchange, seated);
    return kept < 0 ? -1 : ticket_is_settled(ticket);
}
