/* Fields: the six kinds of integer on the wire, named by the letters `struct` has for them.
 *
 *   B u8    H u16    I u32    i i32    Q u64    q i64
 */
#ifndef LIBOS_IPC_FIELDS_H
#define LIBOS_IPC_FIELDS_H

#include "native.h"

struct field {
    char letter;
    bool is_signed;
    uint8_t width; /* in bytes */
};

/* The kind of this letter, which lives for ever, or NULL. */
const struct field *field_of(char letter);

/* Writes a Python int to, or makes one of, the `width` bytes at `at`. Storing fails with TypeError
 * or OverflowError, loading with MemoryError only. */
int store_field(const struct field *field, PyObject *value, unsigned char *at);
PyObject *load_field(const struct field *field, const unsigned char *at);

#endif
