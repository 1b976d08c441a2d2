#include "record.h"

#include "arguments.h"

#include <stdatomic.h>
#include <string.h>

enum {
    USE_AT = 4,
    WORD_AT = 16,
    SIZES_AT = 24,
    CRCS_AT = 32,
    HEAD = 40,
    PREFIX = 9, /* before each value */
};

struct record {
    PyObject_HEAD
    Py_buffer slab;
    unsigned char *place; /* NULL when it was released */
    uint32_t number;      /* of the slab */
    size_t capacity;      /* of each value, with its prefix */
};

static struct record *
record_at(PyObject *self)
{
    return (struct record *)self;
}

/* ---- the checksum that zlib.crc32 gives, half a byte at a time */

static const uint32_t CRC_OF_HALF[16] = {
    0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
    0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
    0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
};

static uint32_t
add_to_crc(uint32_t crc, const void *bytes, size_t count)
{
    const unsigned char *at = bytes;

    for (size_t i = 0; i < count; i++) {
        crc ^= at[i];
        crc = crc >> 4 ^ CRC_OF_HALF[crc & 15];
        crc = crc >> 4 ^ CRC_OF_HALF[crc & 15];
    }
    return crc;
}

/* ---- writing */

static _Atomic uint64_t *
word_of(const struct record *record)
{
    return (_Atomic uint64_t *)(void *)(record->place + WORD_AT);
}

static unsigned
free_half(const struct record *record)
{
    return 1 - (unsigned)(atomic_load_explicit(word_of(record), memory_order_relaxed) & 1);
}

static unsigned char *
value_at(const struct record *record, unsigned half)
{
    return record->place + HEAD + half * record->capacity;
}

/* What has been written into this half counts from now on. */
static void
let_count(struct record *record, unsigned half, uint64_t version, size_t size, uint32_t crc)
{
    const uint32_t written = (uint32_t)size;

    memcpy(record->place + SIZES_AT + 4 * half, &written, sizeof written);
    memcpy(record->place + CRCS_AT + 4 * half, &crc, sizeof crc);
    atomic_store_explicit(word_of(record), version << 1 | half, memory_order_release);
}

bool
record_fits(const struct record *record, size_t size)
{
    return record->place != NULL && size <= RECORD_SMALL && size + PREFIX <= record->capacity;
}

void
record_commit(struct record *record, uint64_t version, const void *data, size_t size)
{
    const unsigned half = free_half(record);
    unsigned char *to = value_at(record, half);
    const uint64_t length = size;

    to[0] = 0; /* the value itself, and no reference */
    memcpy(to + 1, &length, sizeof length);
    memcpy(to + PREFIX, data, size);
    const uint32_t head = add_to_crc(UINT32_MAX, to, PREFIX);
    let_count(record, half, version, PREFIX + size, ~add_to_crc(head, data, size));
}

void
record_place(const struct record *record, uint64_t *slab, uint64_t *where)
{
    *slab = record->number;
    *where = (uint64_t)(record->place - (unsigned char *)record->slab.buf);
}

void
record_set_use(struct record *record, bool in_use)
{
    if (record->place != NULL) {
        record->place[USE_AT] = in_use;
    }
}

/* ---- for Python */

PyDoc_STRVAR(publish_doc, "publish($self, version, body, crc, /)\n--\n\n"
                          "Commit a value: its bytes with what stands before them, and their CRC-32.");

static PyObject *
record_publish(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct record *record = record_at(self);
    uint64_t version, crc;
    Py_buffer body;

    if (require_count("publish", nargs, 3) < 0 ||
        as_unsigned(args[0], "version", UINT64_MAX >> 1, &version) < 0 ||
        as_unsigned(args[2], "crc", UINT32_MAX, &crc) < 0 ||
        PyObject_GetBuffer(args[1], &body, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    const bool fits = record->place != NULL && (size_t)body.len <= record->capacity;
    if (fits) {
        const unsigned half = free_half(record);
        memcpy(value_at(record, half), body.buf, (size_t)body.len);
        let_count(record, half, version, (size_t)body.len, (uint32_t)crc);
    } else {
        PyErr_SetString(PyExc_ValueError, "the record was released, or is too small");
    }
    PyBuffer_Release(&body);
    return fits ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(set_use_doc, "set_use($self, in_use, /)\n--\n\n"
                          "Whether somebody is between lock and unlock.");

static PyObject *
record_set_use_method(PyObject *self, PyObject *argument)
{
    const int in_use = PyObject_IsTrue(argument);

    if (in_use < 0) {
        return NULL;
    }
    record_set_use(record_at(self), in_use != 0);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(release_doc, "release($self, /)\n--\n\nLet go of the memory.");

static PyObject *
record_release(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    record_at(self)->place = NULL;
    PyBuffer_Release(&record_at(self)->slab);
    Py_RETURN_NONE;
}

/* ---- the object */

static PyObject *
record_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"slab", "at", "capacity", "number", NULL};
    PyObject *slab;
    Py_ssize_t at, capacity;
    unsigned int number = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onn|I:Record", names, &slab, &at, &capacity,
                                     &number)) {
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    struct record *record = record_at(self);
    if (PyObject_GetBuffer(slab, &record->slab, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    const Py_ssize_t room = record->slab.len - HEAD;
    if (at < 0 || at % 8 != 0 || capacity < PREFIX || at > room || capacity > (room - at) / 2) {
        PyErr_Format(PyExc_ValueError, "no record of twice %zd bytes is at %zd", capacity, at);
        Py_DECREF(self);
        return NULL;
    }
    record->place = (unsigned char *)record->slab.buf + at;
    record->capacity = (size_t)capacity;
    record->number = number;
    return self;
}

static void
record_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyBuffer_Release(&record_at(self)->slab);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The type is not subclassable, and known by what ends it. */
struct record *
record_of(PyObject *object)
{
    const bool is_one = object != NULL && Py_TYPE(object)->tp_dealloc == record_dealloc;
    return is_one && record_at(object)->place != NULL ? record_at(object) : NULL;
}

static PyMethodDef record_methods[] = {
    {"publish", NATIVE_METHOD(record_publish), METH_FASTCALL, publish_doc},
    {"set_use", record_set_use_method, METH_O, set_use_doc},
    {"release", record_release, METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(record_doc, "Record(slab, at, capacity, number=0)\n--\n\n"
                         "The record there, in the slab of this number, with room for two values of "
                         "so many bytes; see native/record.h.");

static PyType_Slot record_slots[] = {
    {Py_tp_doc, (void *)record_doc},
    {Py_tp_new, record_new},
    {Py_tp_dealloc, record_dealloc},
    {Py_tp_methods, record_methods},
    {0, NULL},
};

static PyType_Spec record_spec = {
    .name = "libos_ipc._native.Record",
    .basicsize = sizeof(struct record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = record_slots,
};

int
record_setup(PyObject *module)
{
    return native_add_type(module, &record_spec);
}
