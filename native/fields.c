#include "fields.h"

#include "arguments.h"
#include "codec.h"

static const struct field fields[] = {
    {'B', false, 1}, {'H', false, 2}, {'I', false, 4},
    {'i', true, 4},  {'Q', false, 8}, {'q', true, 8},
};

const struct field *
field_of(char letter)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(fields); i++) {
        if (fields[i].letter == letter) {
            return &fields[i];
        }
    }
    return NULL;
}

int
store_field(const struct field *field, PyObject *value, unsigned char *at)
{
    const unsigned bits = 8u * field->width;

    if (field->is_signed) {
        const int64_t highest = INT64_MAX >> (64 - bits);
        int64_t number;
        if (as_signed(value, "field", -highest - 1, highest, &number) < 0) {
            return -1;
        }
        store_little_endian(at, (uint64_t)number, field->width);
    }
    else {
        uint64_t number;
        if (as_unsigned(value, "field", UINT64_MAX >> (64 - bits), &number) < 0) {
            return -1;
        }
        store_little_endian(at, number, field->width);
    }
    return 0;
}

PyObject *
load_field(const struct field *field, const unsigned char *at)
{
    const uint64_t number = load_little_endian(at, field->width);

    if (!field->is_signed) {
        return PyLong_FromUnsignedLongLong(number);
    }
    const uint64_t sign = UINT64_C(1) << (8u * field->width - 1u);
    return PyLong_FromLongLong((int64_t)((number ^ sign) - sign));
}
