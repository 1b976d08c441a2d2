/* Channels and bells between threads, without Python: for the thread sanitizer.
 *
 * A writer sends records of all sizes through a channel that is much smaller than they are
 * together, and now and then makes its window larger, or smaller again; a reader checks each byte.
 * Each sleeps on its bell whenever it can do nothing. Beside the reader sits a porter, so that rings
 * go to one or the other. Ends with 0 if all is well.
 */
#include "bell.h"
#include "channel.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    LEAST = 1024,
    CAPACITY = 4096,
    RECORDS = 200000,
    LARGEST = 700,
    READERS_LINE = 3,
    WRITERS_LINE = 900,
    BETWEEN_WINDOWS = 100
};

static struct channel channel;
static unsigned char data[CAPACITY];
static struct bell reader_bell;
static struct bell writer_bell;
static pthread_mutex_t rounds = PTHREAD_MUTEX_INITIALIZER;
static struct channel_end in = {.shared = &channel,
                                .data = data,
                                .capacity = CAPACITY,
                                .least = LEAST,
                                .window = LEAST};
static uint32_t next_record;
static _Atomic uint32_t done;

static uint32_t
size_of(uint32_t number)
{
    return number * 2654435761u % LARGEST;
}

static void
wait_for_room(struct channel_end *out, uint64_t size, uint32_t *seen)
{
    uint64_t lines[BELL_WORDS];

    while (!channel_want(out, size)) {
        bell_sleep(&writer_bell, BELL_SEAT, INT64_MAX, NULL, seen);
        while (bell_take(&writer_bell, lines)) {
        }
    }
}

static void *
write_all(void *nothing)
{
    struct channel_end out = {.shared = &channel,
                              .data = data,
                              .capacity = CAPACITY,
                              .least = LEAST,
                              .window = LEAST};
    unsigned char payload[LARGEST];
    uint32_t seen = 0;

    (void)nothing;
    for (uint32_t number = 0; number < RECORDS; number++) {
        const uint32_t size = size_of(number);
        memset(payload, (int)(number & 0xff), size);
        if (number % BETWEEN_WINDOWS == 0) {
            wait_for_room(&out, out.window, &seen); /* all of it */
            assert(channel_fit(&out, number / BETWEEN_WINDOWS % 3 * LEAST));
        }
        wait_for_room(&out, sizeof number + size, &seen);
        channel_put(&out, &number, sizeof number);
        channel_put(&out, payload, size);
        channel_publish(&out);
        bell_ring(&reader_bell, READERS_LINE);
    }
    return NULL;
}

/* In a round. */
static void
read_records(void)
{
    unsigned char payload[LARGEST];
    uint32_t number;

    for (;;) {
        uint64_t filled = channel_seen(&in);
        if (filled == 0 && (!channel_filled(&in, &filled) || filled == 0)) {
            break;
        }
        assert(filled >= sizeof number);
        channel_take(&in, &number, sizeof number);
        assert(number == next_record);
        const uint32_t size = size_of(number);
        channel_take(&in, payload, size);
        for (uint32_t i = 0; i < size; i++) {
            assert(payload[i] == (number & 0xff));
        }
        next_record++;
        if (channel_release_much(&in)) {
            bell_ring(&writer_bell, WRITERS_LINE);
        }
    }
    if (in.released != in.at && channel_release(&in)) {
        bell_ring(&writer_bell, WRITERS_LINE);
    }
    if (next_record == RECORDS) {
        atomic_store(&done, 1);
        bell_nudge(&reader_bell, BELL_SEAT);
        bell_nudge(&reader_bell, BELL_PORTER);
    }
}

static void *
read_all(void *as)
{
    const uint32_t who = *(const uint32_t *)as;
    uint64_t lines[BELL_WORDS];
    struct looks looks = {.ns = 1000};
    uint32_t seen = 0;

    while (!atomic_load(&done)) {
        bell_sleep(&reader_bell, who, INT64_MAX, who == BELL_SEAT ? &looks : NULL, &seen);
        pthread_mutex_lock(&rounds);
        while (bell_take(&reader_bell, lines)) {
            assert(lines[READERS_LINE / 64] == UINT64_C(1) << READERS_LINE % 64);
            read_records();
        }
        pthread_mutex_unlock(&rounds);
    }
    return NULL;
}

int
main(void)
{
    static const uint32_t seat = BELL_SEAT, porter = BELL_PORTER;
    pthread_t threads[3];

    pthread_create(&threads[0], NULL, write_all, NULL);
    pthread_create(&threads[1], NULL, read_all, (void *)&seat);
    pthread_create(&threads[2], NULL, read_all, (void *)&porter);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    assert(next_record == RECORDS);
    printf("%d records, each whole and in its turn\n", RECORDS);
    return 0;
}
