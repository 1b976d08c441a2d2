/* How a message and the envelope of a link are packed. Plain C; codec.h says what it means.
 */
#ifndef LIBOS_IPC_PACKING_H
#define LIBOS_IPC_PACKING_H

#include <stddef.h>
#include <stdint.h>

enum { HEADER_SIZE = 17, ENVELOPE_SIZE = 16 };

/* The lowest `width` (1 … 8) bytes of a number, lowest first. Need no alignment. */
static inline void
store_little_endian(unsigned char *at, uint64_t value, size_t width)
{
    for (size_t i = 0; i < width; i++) {
        at[i] = (unsigned char)(value >> (8 * i));
    }
}

static inline uint64_t
load_little_endian(const unsigned char *at, size_t width)
{
    uint64_t value = 0;
    for (size_t i = 0; i < width; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

/* The same for eight bytes, written out: compilers make one instruction of it. */
static inline void
store_u64(unsigned char *at, uint64_t value)
{
    at[0] = (unsigned char)value;
    at[1] = (unsigned char)(value >> 8);
    at[2] = (unsigned char)(value >> 16);
    at[3] = (unsigned char)(value >> 24);
    at[4] = (unsigned char)(value >> 32);
    at[5] = (unsigned char)(value >> 40);
    at[6] = (unsigned char)(value >> 48);
    at[7] = (unsigned char)(value >> 56);
}

static inline uint64_t
load_u64(const unsigned char *at)
{
    return (uint64_t)at[0] | (uint64_t)at[1] << 8 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 24 |
           (uint64_t)at[4] << 32 | (uint64_t)at[5] << 40 | (uint64_t)at[6] << 48 |
           (uint64_t)at[7] << 56;
}

struct header {
    uint64_t size; /* of the whole message */
    uint64_t seq;
    uint64_t code;
};

struct envelope {
    uint64_t number;
    uint64_t acked;
};

/* Writes HEADER_SIZE bytes. */
static inline void
store_header(unsigned char *at, const struct header *header)
{
    store_u64(at, header->size);
    store_u64(at + 8, header->seq);
    at[16] = (unsigned char)header->code;
}

/* Writes ENVELOPE_SIZE bytes. */
static inline void
store_envelope(unsigned char *at, const struct envelope *envelope)
{
    store_u64(at, envelope->number);
    store_u64(at + 8, envelope->acked);
}

#endif
