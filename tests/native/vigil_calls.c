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

/* FEW_LOOKS_NS: four looks, which is less than until a porter who sees no handler gives up. */
enum { LINE = 5, SOON_NS = 1000000000, ATTEMPTS = 20, FEW_LOOKS_NS = 8000000 };

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

static void
read_for_both(void)
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
}

/* A handler that serves itself: what is rung while the inner one runs waits as long as for any other. */
static void
read_for_a_handler_inside_another(void)
{
    int64_t least = INT64_MAX;

    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        struct bell own = {0};
        struct vigil vigil = {.bell = &own};
        bell_sit(&own);
        vigil_leave(&vigil);
        vigil_return(&vigil);
        bell_sit(&own);
        vigil_leave(&vigil);
        vigil_leave(&vigil);
        bell_ring(&own, LINE);
        const int64_t from = now_ns();
        assert(vigil_sleep(&vigil, INT64_MAX) == 0 && bell_is_left(&own));
        const int64_t took = now_ns() - from;
        least = took < least ? took : least;
        vigil_return(&vigil);
        vigil_return(&vigil);
        assert(atomic_load(&vigil.inside) == 0);
    }
    assert(least < FEW_LOOKS_NS);
    printf("read inside two handlers after %lld us\n", (long long)(least / 1000));
}

int
main(void)
{
    read_for_both();
    read_for_a_handler_inside_another();
    return 0;
}
