#include "word.h"

#include "arguments.h"

/* The aligned word at this offset of a buffer, NULL with ValueError. */
static uint64_t *
word_at(const Py_buffer *view, uint64_t offset)
{
    const uint64_t size = (uint64_t)view->len;

    if (size < sizeof(uint64_t) || offset > size - sizeof(uint64_t) ||
        ((uintptr_t)view->buf + offset) % sizeof(uint64_t) != 0) {
        PyErr_Format(PyExc_ValueError, "no aligned word of %zd bytes at offset %llu", view->len,
                     (unsigned long long)offset);
        return NULL;
    }
    return (uint64_t *)(void *)((char *)view->buf + offset);
}

PyDoc_STRVAR(exchange_word_doc,
             "exchange_word(memory, offset, expected, desired, /)\n--\n\n"
             "The 64-bit word that was at this offset; `desired` is there now, if that was "
             "`expected`. One step, as all processes that share the memory see it.");

static PyObject *
exchange_word(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t offset, expected, desired;
    Py_buffer view;

    if (require_count("exchange_word", nargs, 4) < 0 ||
        as_unsigned(args[1], "offset", UINT64_MAX, &offset) < 0 ||
        as_unsigned(args[2], "expected", UINT64_MAX, &expected) < 0 ||
        as_unsigned(args[3], "desired", UINT64_MAX, &desired) < 0 ||
        PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    uint64_t *word = word_at(&view, offset);
    if (word != NULL) {
        __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST);
    }
    PyBuffer_Release(&view);
    return word == NULL ? NULL : PyLong_FromUnsignedLongLong(expected);
}

static PyMethodDef functions[] = {
    {"exchange_word", NATIVE_METHOD(exchange_word), METH_FASTCALL, exchange_word_doc},
    {NULL, NULL, 0, NULL},
};

int
word_setup(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
