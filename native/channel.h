/* A channel: bytes from one process to another, through memory that both have mapped.
 *
 *     data   …………|#########|……………|                 `window` bytes used round and round
 *                  ^ read    ^ written                 … of `capacity`, both powers of two
 *
 * Two counts that only grow say what is there: what the writer has published and what the reader
 * has taken. Each is stored by one side alone, after the bytes that it speaks of: whoever dies, or
 * is stopped, in the middle of a message has published nothing that is not there. Each side keeps
 * its own count in its own memory too, and believes of the shared one only the other's.
 *
 * The window is the writer's choice, from `least` on: memory that it does not reach was never
 * touched, and costs nothing. It changes only while the channel is empty, and before anything is put
 * there by the new one; so whoever sees the bytes knows by which they were put.
 *
 * One thread at a time at either end: the caller sees to it. Nothing here blocks or wakes anybody.
 */
#ifndef LIBOS_IPC_CHANNEL_H
#define LIBOS_IPC_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In shared memory, zeroed to begin with. A line of the cache for each: two sides write here. */
struct channel {
    _Alignas(64) _Atomic uint64_t written;
    _Atomic uint32_t doublings; /* of the window */
    _Alignas(64) _Atomic uint64_t read;
    _Alignas(64) _Atomic uint32_t wanting; /* the writer has more than there is room for */
};

/* What a process knows of its end. */
struct channel_end {
    struct channel *shared;
    unsigned char *data;
    uint64_t capacity;
    uint64_t least;  /* bytes of the window at first */
    uint64_t window; /* and now: as this end knows it */
    uint64_t at;     /* bytes put, or taken, since the beginning */
    /* of a reader: up to where the writer had put, and we had made room, at the last look */
    uint64_t seen;
    uint64_t released;
};

/* The writer: bytes that can be put now. 0 also if the reader claims what cannot be. */
uint64_t channel_room(const struct channel_end *end);

/* The writer: bytes put that were not read yet, as the reader claims. */
uint64_t channel_unread(const struct channel_end *end);

/* The writer: put bytes behind those before; there is room. Nobody sees them yet. */
void channel_put(struct channel_end *end, const void *bytes, uint64_t count);

/* The writer: what was put is there for the reader. */
void channel_publish(struct channel_end *end);

/* The writer: ask to be told of room. True if there are `needed` bytes of it already, and nobody will
 * tell. Who is told looks again, and asks again: it may be less. */
bool channel_want(struct channel_end *end, uint64_t needed);

/* The writer: the least window that has room for `size` bytes, if there is one, becomes the window.
 * False if something is left to be read: nothing has changed. */
bool channel_fit(struct channel_end *end, uint64_t size);

/* The reader: bytes that can be taken. False if the writer claims what cannot be. */
bool channel_filled(struct channel_end *end, uint64_t *count);

/* The reader: bytes that can be taken by what was seen then: nothing is looked at. */
uint64_t channel_seen(const struct channel_end *end);

/* The reader: copy the next bytes out, and go past them; they are there. Or only the one of it. */
void channel_take(struct channel_end *end, void *to, uint64_t count);
void channel_peek(const struct channel_end *end, void *to, uint64_t count);
void channel_skip(struct channel_end *end, uint64_t count);

/* The reader: what was taken makes room. True if the writer is to be told: once half of it is free.
 * So a reader must not stop before it has taken everything. */
bool channel_release(struct channel_end *end);

/* The same, if much was taken since the last time: each time takes the writer's processor a line of its
 * cache away. Who stops reading releases the rest. */
bool channel_release_much(struct channel_end *end);

#endif
