/* Relay: threads of one process that wait for answers at the same time take turns.
 *
 * As long as answers come while one looks for them, they are the interpreter's own: who asks keeps its lock
 * (`swift`), the others stand in line for that, with answers that they have been woken with, and change
 * places when the interpreter has them, as threads do that compute. All the rest is for answers that take
 * longer, or come from one who needs this processor.
 *
 * To wake each with its answer costs two switches for every request: a thread that wakes while another has
 * the interpreter lock sleeps again until it gets that. So the one that reads what comes wakes nobody. It
 * puts those whose answers are there behind one another, and the first is woken by whoever has the turn
 * when that one sleeps anyway, without the lock:
 *
 *     A    post, read B's, read C's, wake B, sleep ………………………………………………………………………
 *     B    sleep ……………………………………………… program, post, read A's, wake C, sleep ……………
 *     C    sleep ……………………………………………………………………………………………………………………………… program, …
 *
 * Who has the turn keeps it for a while (TURN_NS) while his own answers come soon: a switch costs as much
 * as a request. Nobody need be on the seat while a thread is back in the program, though it counts as awake
 * (`promised`): it is about to come and look. Whether that can be believed is measured: threads must have
 * come back closely several times in a row. Otherwise whoever goes wakes the next at once.
 *
 * And if one does not come back, the others are *watchful*: each wakes by itself when no turn has begun for
 * long, without the lock if one has. It goes on with its answer, or takes the seat; and for a while nobody is
 * believed, the longer the more often that was wrong. So an answer may wait for somebody who has gone for
 * half a millisecond, and a tenth of one more for each who waits. A promise is given only while somebody is
 * watchful; whoever is so no longer, since his request takes long, is woken directly.
 *
 * Everything changes under the interpreter lock, but for `began`, at which sleepers look.
 */
#ifndef LIBOS_IPC_RELAY_H
#define LIBOS_IPC_RELAY_H

#include "ring.h"

#include <stdatomic.h>

/* What is tried again and again, but after failures in a row not for a while. */
struct hope {
    unsigned failures;
    unsigned skipped; /* how often it was not tried since */
};

struct relay {
    struct link ready;     /* tickets that are settled, whose threads are watchful, asleep and not called */
    unsigned watchful;     /* threads asleep that look by themselves when nothing moves */
    bool promised;         /* nobody sits, but the bell counts the seat as awake: somebody will look */
    int close;             /* how often in a row a thread came closely behind one that had gone */
    int doubt;             /* how much more often they have to next time, should one not come */
    int64_t left_at;       /* when one has gone and none has come since; 0 otherwise */
    struct hope soon;      /* that an answer comes before long, so that a turn is worth keeping */
    struct hope at_hand;   /* that it comes while it is looked for with the interpreter lock held */
    bool swift;            /* it does */
    _Atomic int64_t began; /* when the last turn did */
};

#endif
