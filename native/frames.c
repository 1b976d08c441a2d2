#include "frames.h"

#include "arguments.h"
#include "codec.h"

enum { LARGE = 16384 };

PyDoc_STRVAR(pack_frames_doc, "pack_frames(number, acked, code, seq, payload, /)\n--\n\n"
                              "The frames of a message on a link: envelope, header and payload.");

/* Header and payload in one frame, or the header alone in front of `payload` itself. */
static PyObject *
message_frame(const struct header *header, const Py_buffer *payload)
{
    const Py_ssize_t copied = payload->len < LARGE ? payload->len : 0;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + copied);

    if (frame != NULL) {
        unsigned char *at = (unsigned char *)PyBytes_AS_STRING(frame);
        store_header(at, header);
        if (copied > 0) {
            memcpy(at + HEADER_SIZE, payload->buf, (size_t)copied);
        }
    }
    return frame;
}

static PyObject *
pack_frames(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    struct envelope envelope;
    struct header header;
    unsigned char packed[ENVELOPE_SIZE];
    Py_buffer payload = {0};
    PyObject *frames = NULL;

    if (require_count("pack_frames", nargs, 5) < 0 ||
        as_unsigned(args[0], "number", UINT64_MAX, &envelope.number) < 0 ||
        as_unsigned(args[1], "acked", UINT64_MAX, &envelope.acked) < 0 ||
        header_from_arguments(args[2], args[3], &header) < 0 ||
        PyObject_GetBuffer(args[4], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    header.size = HEADER_SIZE + (uint64_t)payload.len;
    store_envelope(packed, &envelope);
    PyObject *first = PyBytes_FromStringAndSize((const char *)packed, ENVELOPE_SIZE);
    PyObject *second = message_frame(&header, &payload);
    if (first != NULL && second != NULL) {
        frames = payload.len < LARGE ? PyTuple_Pack(2, first, second)
                                     : PyTuple_Pack(3, first, second, args[4]);
    }
    Py_XDECREF(first);
    Py_XDECREF(second);
    PyBuffer_Release(&payload);
    return frames;
}

PyDoc_STRVAR(unpack_frames_doc, "unpack_frames(frames, max_message, /)\n--\n\n"
                                "(number, acked, code, seq, payload) from a list of two or three "
                                "bytes objects.");

/* The payload of a message whose header has been loaded from `second`. */
static PyObject *
payload_of(const Py_buffer *second, PyObject *third)
{
    if (third != NULL) {
        return Py_NewRef(third);
    }
    return PyBytes_FromStringAndSize((const char *)second->buf + HEADER_SIZE,
                                     second->len - HEADER_SIZE);
}

static PyObject *
unpack_frames(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *malformed = native_state_of(module)->malformed;
    struct envelope envelope;
    struct header header;
    uint64_t max_message;
    Py_buffer first = {0};
    Py_buffer second = {0};
    PyObject *result = NULL;

    if (nargs != 2 || !PyList_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "unpack_frames() takes a list and a size");
        return NULL;
    }
    if (as_unsigned(args[1], "max_message", UINT64_MAX, &max_message) < 0) {
        return NULL;
    }
    const Py_ssize_t count = PyList_GET_SIZE(args[0]);
    if (count != 2 && count != 3) {
        PyErr_Format(malformed, "a message has 2 or 3 frames, not %zd", count);
        return NULL;
    }
    /* Taken out of the list before anything runs that might change it. */
    PyObject *frames[3] = {NULL, NULL, NULL};
    for (Py_ssize_t i = 0; i < count; i++) {
        frames[i] = Py_NewRef(PyList_GET_ITEM(args[0], i));
    }
    if (frames[2] != NULL && !PyBytes_CheckExact(frames[2])) {
        PyErr_SetString(PyExc_TypeError, "a payload must be bytes");
        goto done;
    }
    if (PyObject_GetBuffer(frames[0], &first, PyBUF_SIMPLE) < 0 ||
        load_envelope(module, &first, &envelope) < 0 ||
        PyObject_GetBuffer(frames[1], &second, PyBUF_SIMPLE) < 0) {
        goto done;
    }
    if (frames[2] != NULL && second.len != HEADER_SIZE) {
        PyErr_Format(malformed, "a header of %zd bytes instead of %d before a payload", second.len,
                     HEADER_SIZE);
        goto done;
    }
    const uint64_t total =
        (uint64_t)second.len + (frames[2] == NULL ? 0 : (uint64_t)PyBytes_GET_SIZE(frames[2]));
    if (load_header(module, &second, total, max_message, &header) == 0) {
        PyObject *payload = payload_of(&second, frames[2]);
        result = payload == NULL
                     ? NULL
                     : Py_BuildValue("KKiKN", (unsigned long long)envelope.number,
                                     (unsigned long long)envelope.acked, (int)header.code,
                                     (unsigned long long)header.seq, payload);
    }
done:
    PyBuffer_Release(&first);
    PyBuffer_Release(&second);
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_DECREF(frames[i]);
    }
    return result;
}

static PyMethodDef frames_functions[] = {
    {"pack_frames", NATIVE_METHOD(pack_frames), METH_FASTCALL, pack_frames_doc},
    {"unpack_frames", NATIVE_METHOD(unpack_frames), METH_FASTCALL, unpack_frames_doc},
    {NULL, NULL, 0, NULL},
};

int
frames_setup(PyObject *module)
{
    if (PyModule_AddIntConstant(module, "LARGE", LARGE) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, frames_functions);
}
