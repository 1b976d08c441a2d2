/* A seat whose handlers follow one another closely, and what pauses between them do to the vigil.
 *
 * When the last handler began is set, also for a pause, as if another process had had the processor
 * since. Ends with 0 if one pause in a stream calls nobody, and if handlers that follow one another
 * slowly have the porter called again before many of them.
 */
#define _GNU_SOURCE

#include "clock.h"
#include "vigil.h"

#include <assert.h>
#include <stdio.h>

enum { LINE = 5, MANY = 1000, FEW = 10 };

static struct bell bell;

/* Something is rung, and a handler called. Whether the porter is called as well. */
static bool
handle(struct vigil *vigil, bool after_a_pause)
{
    bell_sit(&bell);
    bell_ring(&bell, LINE);
    vigil->left_at = now_ns() - (after_a_pause ? NS_PER_S : 0);
    vigil_leave(vigil);
    vigil_return(vigil);
    return atomic_exchange(&vigil->called, false);
}

int
main(void)
{
    struct vigil vigil = {.bell = &bell};
    int slow = 0;

    assert(handle(&vigil, true)); /* the first: nothing is known of those that come */
    for (int i = 0; i < MANY; i++) {
        assert(!handle(&vigil, false));
    }
    for (int i = 0; i < MANY; i++) {
        assert(!handle(&vigil, i % 20 == 0));
    }
    while (!handle(&vigil, true)) {
        slow++;
        assert(slow < FEW);
    }
    assert(handle(&vigil, true));
    printf("called at slow handler %d\n", slow + 1);
    return 0;
}
