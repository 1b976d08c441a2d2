#include "channel.h"

#include <string.h>

/* How many bytes lie before the end of the data, from place `at` on. */
static uint64_t
before_wrap(const struct channel_end *end)
{
    return end->window - (end->at & (end->window - 1));
}

static unsigned char *
place_of(const struct channel_end *end)
{
    return end->data + (end->at & (end->window - 1));
}

uint64_t
channel_unread(const struct channel_end *end)
{
    return end->at - atomic_load(&end->shared->read);
}

uint64_t
channel_room(const struct channel_end *end)
{
    const uint64_t used = channel_unread(end);
    return used > end->window ? 0 : end->window - used;
}

void
channel_put(struct channel_end *end, const void *bytes, uint64_t count)
{
    const uint64_t first = before_wrap(end);

    if (count <= first) {
        memcpy(place_of(end), bytes, count);
    } else {
        memcpy(place_of(end), bytes, first);
        memcpy(end->data, (const unsigned char *)bytes + first, count - first);
    }
    end->at += count;
}

void
channel_publish(struct channel_end *end)
{
    atomic_store_explicit(&end->shared->written, end->at, memory_order_release);
}

bool
channel_want(struct channel_end *end, uint64_t needed)
{
    /* Either the reader sees this after it has made room, or we see the room: both are in the one
     * order of all sequentially consistent operations. */
    atomic_store(&end->shared->wanting, 1);
    if (channel_room(end) < needed) {
        return false;
    }
    atomic_store(&end->shared->wanting, 0);
    return true;
}

bool
channel_fit(struct channel_end *end, uint64_t size)
{
    uint32_t doublings = 0;

    if (channel_room(end) != end->window) {
        return false;
    }
    while (end->least << doublings < size && end->least << doublings < end->capacity) {
        doublings++;
    }
    end->window = end->least << doublings;
    /* Seen at the latest by who sees what is published next. */
    atomic_store_explicit(&end->shared->doublings, doublings, memory_order_relaxed);
    return true;
}

bool
channel_filled(struct channel_end *end, uint64_t *count)
{
    const uint64_t written = atomic_load_explicit(&end->shared->written, memory_order_acquire);
    const uint32_t doublings =
        atomic_load_explicit(&end->shared->doublings, memory_order_relaxed);
    if (doublings >= 32 || end->least << doublings > end->capacity) {
        return false;
    }
    end->window = end->least << doublings;
    *count = written - end->at;
    if (*count > end->window) {
        return false;
    }
    end->seen = written;
    return true;
}

uint64_t
channel_seen(const struct channel_end *end)
{
    return end->seen - end->at;
}

void
channel_peek(const struct channel_end *end, void *to, uint64_t count)
{
    const uint64_t first = before_wrap(end);

    if (count <= first) {
        memcpy(to, place_of(end), count);
    } else {
        memcpy(to, place_of(end), first);
        memcpy((unsigned char *)to + first, end->data, count - first);
    }
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
    end->released = end->at;
    atomic_store(&end->shared->read, end->at);
    if (atomic_load(&end->shared->wanting) == 0) {
        return false;
    }
    /* Who waits for room is called for much of it at a time; when all is taken at the latest. */
    const uint64_t left =
        atomic_load_explicit(&end->shared->written, memory_order_relaxed) - end->at;
    return left <= end->window / 2 && atomic_exchange(&end->shared->wanting, 0) != 0;
}

bool
channel_release_much(struct channel_end *end)
{
    return end->at - end->released >= end->window / 8 && channel_release(end);
}
