#include "channel.h"

#include <string.h>

/* How much of `count` bytes lies before the end of the data, from place `at` on. */
static uint64_t
before_wrap(const struct channel_end *end, uint64_t count)
{
    const uint64_t left = end->capacity - (end->at & (end->capacity - 1));
    return count < left ? count : left;
}

static unsigned char *
place_of(const struct channel_end *end)
{
    return end->data + (end->at & (end->capacity - 1));
}

uint64_t
channel_room(const struct channel_end *end)
{
    const uint64_t used = end->at - atomic_load(&end->shared->read);
    return used > end->capacity ? 0 : end->capacity - used;
}

void
channel_put(struct channel_end *end, const void *bytes, uint64_t count)
{
    const uint64_t first = before_wrap(end, count);

    memcpy(place_of(end), bytes, first);
    memcpy(end->data, (const unsigned char *)bytes + first, count - first);
    end->at += count;
}

void
channel_publish(struct channel_end *end)
{
    atomic_store_explicit(&end->shared->written, end->at, memory_order_release);
}

bool
channel_want(struct channel_end *end)
{
    /* Either the reader sees this after it has made room, or we see the room: both are in the one
     * order of all sequentially consistent operations. */
    atomic_store(&end->shared->wanting, 1);
    if (channel_room(end) == 0) {
        return false;
    }
    atomic_store(&end->shared->wanting, 0);
    return true;
}

bool
channel_filled(const struct channel_end *end, uint64_t *count)
{
    *count = atomic_load_explicit(&end->shared->written, memory_order_acquire) - end->at;
    return *count <= end->capacity;
}

void
channel_peek(const struct channel_end *end, void *to, uint64_t count)
{
    const uint64_t first = before_wrap(end, count);

    memcpy(to, place_of(end), first);
    memcpy((unsigned char *)to + first, end->data, count - first);
}

void
channel_skip(struct channel_end *end, uint64_t count)
{
    end->at += count;
}

void
channel_take(struct channel_end *end, void *to, uint64_t count)
{
    channel_peek(end, to, count);
    channel_skip(end, count);
}

bool
channel_release(struct channel_end *end)
{
    atomic_store(&end->shared->read, end->at);
    if (atomic_load(&end->shared->wanting) == 0) {
        return false;
    }
    /* Who waits for room is called for much of it at a time; when all is taken at the latest. */
    const uint64_t left =
        atomic_load_explicit(&end->shared->written, memory_order_relaxed) - end->at;
    return left <= end->capacity / 2 && atomic_exchange(&end->shared->wanting, 0) != 0;
}
