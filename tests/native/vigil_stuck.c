/* A handler that does not end, alone and in a stream of short ones, and what is rung meanwhile.
 *
 * One thread plays the seat, then the porter. Ends with 0 if the porter is to read in the seat's place after
 * some looks either way, and after more of them in the stream.
 */
#define _GNU_SOURCE

#include "clock.h"
#include "vigil.h"

#include <assert.h>
#include <stdio.h>

enum { LINE = 5, MANY = 1000, SOON_NS = 1000000000 };

/* How long it takes until what was rung during a handler is the porter's, after so many short ones. */
static int64_t
wait_behind(int handlers)
{
    struct bell bell = {.count = 0};
    struct vigil vigil = {.bell = &bell};

    for (int i = 0; i < handlers; i++) {
        bell_sit(&bell);
        vigil_leave(&vigil);
        vigil_return(&vigil);
    }
    bell_sit(&bell);
    vigil_leave(&vigil);
    bell_ring(&bell, LINE);
    atomic_store(&vigil.called, false);
    const int64_t from = now_ns();
    assert(vigil_sleep(&vigil, INT64_MAX) == 0);
    assert(bell_is_left(&bell));
    return now_ns() - from;
}

int
main(void)
{
    const int64_t behind_few = wait_behind(3);
    const int64_t behind_many = wait_behind(MANY);

    printf("read after %lld us, and after %lld us in a stream\n", (long long)(behind_few / 1000),
           (long long)(behind_many / 1000));
    assert(behind_few < SOON_NS && behind_many < SOON_NS);
    assert(behind_many > 5000000);
    return 0;
}
