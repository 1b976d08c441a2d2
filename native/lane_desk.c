#define _GNU_SOURCE /* the clock */

#include "lane_parts.h"

#include "clock.h"
#include "signal_look.h"

#include <errno.h>

/* After this long without an answer somebody else is asked, by a message. */
static const int64_t PATIENCE_NS = NS_PER_S / 10;

struct desk *
lane_served_desk(const struct lane *lane, PyObject **memory)
{
    if (lane_require_open(lane) < 0) {
        return NULL;
    }
    *memory = lane->memory;
    return lane->served;
}

/* Waits for this turn's answer, while the lane is open. 1, 0 if it is too late, 2 if there is none,
 * -1 with an exception. */
static int
await_turn(const struct lane *lane, struct desk *desk, uint32_t turn, int64_t deadline, int64_t spin)
{
    const int64_t now = now_ns();
    const int64_t latest = deadline - PATIENCE_NS > now ? now + PATIENCE_NS : deadline;
    int64_t pause = 0;

    for (;;) {
        const uint32_t seen = desk_answered(desk);
        int found;
        if (seen == turn) {
            return 1;
        }
        if (lane->memory == NULL) {
            return 2;
        }
        Py_BEGIN_ALLOW_THREADS
        found = desk_await(desk, seen, until_next_look(latest, &pause), spin);
        Py_END_ALLOW_THREADS
        if (found == EINTR) {
            pause = 0;
        }
        if (desk_answered(desk) == turn) {
            return 1;
        }
        /* Woken without an answer, time and signals count as well: who moves the turn on and on, for
         * nothing, does not keep us. */
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
        if (now_ns() >= latest) {
            return latest < deadline ? 2 : 0;
        }
    }
}

/* Whether what lies on the desk answers this request. */
static bool
answers(const struct desk *desk, uint64_t seq)
{
    unsigned char head[DESK_MESSAGE];

    desk_read(desk, head);
    return load_u64(head + ENVELOPE_SIZE) == HEADER_SIZE &&
           load_u64(head + ENVELOPE_SIZE + 8) == seq && head[ENVELOPE_SIZE + 16] == 0;
}

static int
ask(struct lane *lane, struct header *header, int64_t deadline, int64_t spin)
{
    struct desk *desk = lane->asked;
    unsigned char question[DESK_MESSAGE];

    header->size = HEADER_SIZE;
    store_envelope(question, &(struct envelope){0, 0});
    store_header(question + ENVELOPE_SIZE, header);
    desk_ask(desk, ++lane->turn, question);
    bell_ring(&lane->reception->bell, lane->line);
    int result = await_turn(lane, desk, lane->turn, deadline, spin);
    if (result == 1 && !answers(desk, header->seq)) {
        result = 2;
    }
    return result;
}

bool
lane_may_ask(const struct lane *lane)
{
    return lane->memory != NULL && lane->bell != NULL && lane->asking.memory == NULL &&
           atomic_load_explicit(&lane->reception->open, memory_order_relaxed) != 0;
}

int
lane_ask(PyObject *self, struct header *header, int64_t deadline, int64_t spin)
{
    struct lane *lane = lane_of(self);

    Py_INCREF(self);
    lane_hold(lane, &lane->asking);
    const int result = ask(lane, header, deadline, spin);
    lane_let_go(&lane->asking);
    Py_DECREF(self);
    return result;
}
