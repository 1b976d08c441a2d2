/* A seat that has gone into a handler, and a porter who is called for several things at once.
 *
 * All of it in one thread, in an order that two threads come to now and then: the calls are there before
 * the porter sleeps, so that one look at the bell's count takes all of them. Ends with 0 if what is rung
 * during the handler is the porter's soon all the same.
 */
#define _GNU_SOURCE

#include "clock.h"
#include "vigil.h"

#include <assert.h>
#include <stdio.h>

enum { LINE = 5, SOON_NS = 1000000000 };

static struct bell bell;

/* A handler after a while, during which the porter is called to read; and the next, closely behind it,
 * which does not end. */
static void
call_for_both(struct vigil *vigil)
{
    uint64_t lines[BELL_WORDS];

    bell_sit(&bell);
    bell_ring(&bell, LINE);
    vigil_leave(vigil);
    assert(atomic_load(&vigil->called));
    while (bell_take(&bell, lines)) {
    }
    vigil_return(vigil);
    bell_sit(&bell);
    vigil_leave(vigil);
}

int
main(void)
{
    struct vigil vigil = {.bell = &bell};

    call_for_both(&vigil);
    const int64_t from = now_ns();
    assert(vigil_sleep(&vigil, INT64_MAX) == 0); /* called, and nothing is left to read */
    bell_ring(&bell, LINE);
    assert(vigil_sleep(&vigil, INT64_MAX) == 0);
    assert(now_ns() - from < SOON_NS);
    assert(bell_is_left(&bell));
    printf("read after %lld us\n", (long long)((now_ns() - from) / 1000));
    return 0;
}
