/* The two fixed formats of the wire: the header of a message and the envelope of a link.
 *
 *   header    u64 size, header included | u64 seq | u8 code           17 bytes
 *   envelope  u64 link number | u64 last number received               16 bytes
 *
 * Everything is little-endian and packed. What comes from outside is untrusted: a length is
 * checked before the bytes it speaks of are read, and before anything is allocated for them; the
 * caller's buffer stays locked in size while it is read, and each field is read once, so that
 * memory another process writes to may be passed in. What fails raises Malformed.
 */
#ifndef LIBOS_IPC_CODEC_H
#define LIBOS_IPC_CODEC_H

#include "native.h"

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

/* Write HEADER_SIZE or ENVELOPE_SIZE bytes. */
void store_header(unsigned char *at, const struct header *header);
void store_envelope(unsigned char *at, const struct envelope *envelope);

/* Code and sequence number from Python. -1 with TypeError or OverflowError. */
int header_from_arguments(PyObject *code, PyObject *seq, struct header *header);

/* Reads the header that stands at the start of `frame`, a message of `total` bytes if it is well
 * formed; or the envelope that a frame is. -1 with Malformed. */
int load_header(PyObject *module, const Py_buffer *frame, uint64_t total, uint64_t max_message,
                struct header *header);
int load_envelope(PyObject *module, const Py_buffer *frame, struct envelope *envelope);

/* Adds the functions and sizes to the module. */
int codec_setup(PyObject *module);

#endif
