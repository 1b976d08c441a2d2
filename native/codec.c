#include "codec.h"

#include "arguments.h"

int
header_from_arguments(PyObject *code, PyObject *seq, struct header *header)
{
    if (as_unsigned(code, "code", UINT8_MAX, &header->code) < 0) {
        return -1;
    }
    return as_unsigned(seq, "seq", UINT64_MAX, &header->seq);
}

int
load_header(PyObject *module, const Py_buffer *frame, uint64_t total, uint64_t max_message,
            struct header *header)
{
    PyObject *malformed = native_state_of(module)->malformed;
    const unsigned char *at = frame->buf;

    if (frame->len < HEADER_SIZE) {
        PyErr_Format(malformed, "%zd bytes are too short for a header of %d", frame->len,
                     HEADER_SIZE);
        return -1;
    }
    header->size = load_u64(at);
    header->seq = load_u64(at + 8);
    header->code = at[16];
    if (header->size > max_message) {
        PyErr_Format(malformed, "message of %llu bytes, at most %llu are allowed",
                     (unsigned long long)header->size, (unsigned long long)max_message);
        return -1;
    }
    if (header->size != total) {
        PyErr_Format(malformed, "header speaks of %llu bytes, the message has %llu",
                     (unsigned long long)header->size, (unsigned long long)total);
        return -1;
    }
    return 0;
}

int
load_envelope(PyObject *module, const Py_buffer *frame, struct envelope *envelope)
{
    const unsigned char *at = frame->buf;

    if (frame->len != ENVELOPE_SIZE) {
        PyErr_Format(native_state_of(module)->malformed, "envelope of %zd bytes instead of %d",
                     frame->len, ENVELOPE_SIZE);
        return -1;
    }
    envelope->number = load_u64(at);
    envelope->acked = load_u64(at + 8);
    return 0;
}

PyDoc_STRVAR(pack_message_doc, "pack_message(code, seq, payload=b'')\n--\n\n"
                               "Header and payload in one bytes object.");

static PyObject *
pack_message(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const struct parameters wanted = {"pack_message", 2, 3, {"code", "seq", "payload"}};
    PyObject *bound[MOST_PARAMETERS];
    struct header header;
    Py_buffer payload = {0};
    PyObject *message = NULL;

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        header_from_arguments(bound[0], bound[1], &header) < 0) {
        goto done;
    }
    if (bound[2] != NULL && PyObject_GetBuffer(bound[2], &payload, PyBUF_SIMPLE) < 0) {
        goto done;
    }
    if (payload.len > PY_SSIZE_T_MAX - HEADER_SIZE) {
        PyErr_NoMemory();
        goto done;
    }
    message = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + payload.len);
    if (message == NULL) {
        goto done;
    }
    unsigned char *at = (unsigned char *)PyBytes_AS_STRING(message);
    header.size = (uint64_t)(HEADER_SIZE + payload.len);
    store_header(at, &header);
    if (payload.len > 0) {
        memcpy(at + HEADER_SIZE, payload.buf, (size_t)payload.len);
    }
done:
    PyBuffer_Release(&payload);
    return message;
}

PyDoc_STRVAR(pack_header_doc, "pack_header(code, seq, payload_size)\n--\n\n"
                              "The header alone, for a payload that follows in a frame of its "
                              "own.");

static PyObject *
pack_header(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const struct parameters wanted = {"pack_header", 3, 3, {"code", "seq", "payload_size"}};
    PyObject *bound[MOST_PARAMETERS];
    struct header header;
    uint64_t payload_size;
    unsigned char packed[HEADER_SIZE];

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        header_from_arguments(bound[0], bound[1], &header) < 0 ||
        as_unsigned(bound[2], "payload_size", UINT64_MAX - HEADER_SIZE, &payload_size) < 0) {
        return NULL;
    }
    header.size = HEADER_SIZE + payload_size;
    store_header(packed, &header);
    return PyBytes_FromStringAndSize((const char *)packed, HEADER_SIZE);
}

PyDoc_STRVAR(unpack_message_doc, "unpack_message(message, max_message)\n--\n\n"
                                 "(code, seq, payload) of a whole message; the payload is a "
                                 "copy.");

static PyObject *
unpack_message(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters wanted = {"unpack_message", 2, 2, {"message", "max_message"}};
    PyObject *bound[MOST_PARAMETERS];
    uint64_t max_message;
    struct header header;
    Py_buffer message = {0};
    PyObject *result = NULL;

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        as_unsigned(bound[1], "max_message", UINT64_MAX, &max_message) < 0 ||
        PyObject_GetBuffer(bound[0], &message, PyBUF_SIMPLE) < 0 ||
        load_header(module, &message, (uint64_t)message.len, max_message, &header) < 0) {
        goto done;
    }
    result = Py_BuildValue("iKy#", (int)header.code, (unsigned long long)header.seq,
                           (const char *)message.buf + HEADER_SIZE, message.len - HEADER_SIZE);
done:
    PyBuffer_Release(&message);
    return result;
}

PyDoc_STRVAR(unpack_header_doc, "unpack_header(frame, payload_size, max_message)\n--\n\n"
                                "(code, seq) of a message whose payload came in a frame of its "
                                "own.");

static PyObject *
unpack_header(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters wanted = {
        "unpack_header", 3, 3, {"frame", "payload_size", "max_message"}};
    PyObject *bound[MOST_PARAMETERS];
    uint64_t payload_size;
    uint64_t max_message;
    struct header header;
    Py_buffer frame = {0};
    PyObject *result = NULL;

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        as_unsigned(bound[1], "payload_size", UINT64_MAX - HEADER_SIZE, &payload_size) < 0 ||
        as_unsigned(bound[2], "max_message", UINT64_MAX, &max_message) < 0 ||
        PyObject_GetBuffer(bound[0], &frame, PyBUF_SIMPLE) < 0) {
        goto done;
    }
    if (frame.len > HEADER_SIZE) {
        PyErr_Format(native_state_of(module)->malformed,
                     "a frame of %zd bytes is too long for a header of %d", frame.len,
                     HEADER_SIZE);
        goto done;
    }
    if (load_header(module, &frame, HEADER_SIZE + payload_size, max_message, &header) == 0) {
        result = Py_BuildValue("iK", (int)header.code, (unsigned long long)header.seq);
    }
done:
    PyBuffer_Release(&frame);
    return result;
}

PyDoc_STRVAR(pack_envelope_doc, "pack_envelope(number, acked)\n--\n\n"
                                "The envelope of a message: its number on the link, and the last "
                                "number received.");

static PyObject *
pack_envelope(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    static const struct parameters wanted = {"pack_envelope", 2, 2, {"number", "acked"}};
    PyObject *bound[MOST_PARAMETERS];
    struct envelope envelope;
    unsigned char packed[ENVELOPE_SIZE];

    if (bind_arguments(&wanted, args, nargs, kwnames, bound) < 0 ||
        as_unsigned(bound[0], "number", UINT64_MAX, &envelope.number) < 0 ||
        as_unsigned(bound[1], "acked", UINT64_MAX, &envelope.acked) < 0) {
        return NULL;
    }
    store_envelope(packed, &envelope);
    return PyBytes_FromStringAndSize((const char *)packed, ENVELOPE_SIZE);
}

PyDoc_STRVAR(unpack_envelope_doc, "unpack_envelope(frame, /)\n--\n\n"
                                  "(number, acked) of an envelope.");

static PyObject *
unpack_envelope(PyObject *module, PyObject *argument)
{
    struct envelope envelope;
    Py_buffer frame = {0};
    PyObject *result = NULL;

    if (PyObject_GetBuffer(argument, &frame, PyBUF_SIMPLE) == 0 &&
        load_envelope(module, &frame, &envelope) == 0) {
        result = Py_BuildValue("KK", (unsigned long long)envelope.number,
                               (unsigned long long)envelope.acked);
    }
    PyBuffer_Release(&frame);
    return result;
}

static PyMethodDef codec_functions[] = {
    {"pack_message", NATIVE_METHOD(pack_message), METH_FASTCALL | METH_KEYWORDS, pack_message_doc},
    {"pack_header", NATIVE_METHOD(pack_header), METH_FASTCALL | METH_KEYWORDS, pack_header_doc},
    {"unpack_message", NATIVE_METHOD(unpack_message), METH_FASTCALL | METH_KEYWORDS,
     unpack_message_doc},
    {"unpack_header", NATIVE_METHOD(unpack_header), METH_FASTCALL | METH_KEYWORDS,
     unpack_header_doc},
    {"pack_envelope", NATIVE_METHOD(pack_envelope), METH_FASTCALL | METH_KEYWORDS,
     pack_envelope_doc},
    {"unpack_envelope", unpack_envelope, METH_O, unpack_envelope_doc},
    {NULL, NULL, 0, NULL},
};

int
codec_setup(PyObject *module)
{
    if (PyModule_AddIntConstant(module, "HEADER_SIZE", HEADER_SIZE) < 0 ||
        PyModule_AddIntConstant(module, "ENVELOPE_SIZE", ENVELOPE_SIZE) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, codec_functions);
}
