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
#include "packing.h"

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
