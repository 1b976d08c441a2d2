/* The least that a request between two Python programs can cost: limits.c, with a Python at each end.
 *
 * One page of shared memory with 32 bytes and a word for either direction. Who sends copies its bytes,
 * counts its word up and wakes the other; who receives sleeps on the word with the interpreter lock
 * released, and makes a bytes object of what came. There is no length, no sender, no second message,
 * no time-out, and nobody who may die: all that a library adds comes on top of this.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SIZE = 32 };

struct direction {
    _Atomic uint32_t count;
    char bytes[SIZE];
    char apart[128 - sizeof(uint32_t) - SIZE]; /* the other one has cache lines of its own */
};

/* The two directions in a writable buffer, which the caller keeps. NULL with an exception. */
static struct direction *
directions_in(PyObject *memory, Py_buffer *buffer)
{
    if (PyObject_GetBuffer(memory, buffer, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    if (buffer->len < (Py_ssize_t)(2 * sizeof(struct direction))) {
        PyBuffer_Release(buffer);
        PyErr_SetString(PyExc_ValueError, "the memory is too small");
        return NULL;
    }
    return buffer->buf;
}

static void
wake(struct direction *there)
{
    atomic_fetch_add(&there->count, 1);
    syscall(SYS_futex, &there->count, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void
sleep_on(struct direction *here, uint32_t seen)
{
    while (atomic_load(&here->count) == seen) {
        syscall(SYS_futex, &here->count, FUTEX_WAIT, seen, NULL, NULL, 0);
    }
}

static int
put(struct direction *there, PyObject *payload)
{
    if (!PyBytes_CheckExact(payload) || PyBytes_GET_SIZE(payload) != SIZE) {
        PyErr_Format(PyExc_ValueError, "a payload is %d bytes", SIZE);
        return -1;
    }
    memcpy(there->bytes, PyBytes_AS_STRING(payload), SIZE);
    return 0;
}

/* ask(memory, payload): the answer. */
static PyObject *
ask(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    Py_buffer buffer;
    PyObject *answer = NULL;
    struct direction *both = nargs == 2 ? directions_in(args[0], &buffer) : NULL;

    if (both == NULL) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "ask(memory, payload)");
    }
    if (put(&both[0], args[1]) == 0) {
        Py_BEGIN_ALLOW_THREADS
        const uint32_t seen = atomic_load(&both[1].count);
        wake(&both[0]);
        sleep_on(&both[1], seen);
        Py_END_ALLOW_THREADS
        answer = PyBytes_FromStringAndSize(both[1].bytes, SIZE);
    }
    PyBuffer_Release(&buffer);
    return answer;
}

/* serve(memory, handler): answers with what the handler returns, for ever. */
static PyObject *
serve(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    Py_buffer buffer;
    int state = 0;
    struct direction *both = nargs == 2 ? directions_in(args[0], &buffer) : NULL;

    if (both == NULL) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "serve(memory, handler)");
    }
    for (uint32_t seen = 0; state == 0; seen++) {
        Py_BEGIN_ALLOW_THREADS
        sleep_on(&both[0], seen);
        Py_END_ALLOW_THREADS
        PyObject *payload = PyBytes_FromStringAndSize(both[0].bytes, SIZE);
        PyObject *answer = payload == NULL ? NULL : PyObject_CallOneArg(args[1], payload);
        state = answer == NULL ? -1 : put(&both[1], answer);
        wake(&both[1]);
        Py_XDECREF(payload);
        Py_XDECREF(answer);
    }
    PyBuffer_Release(&buffer);
    return NULL;
}

static PyMethodDef methods[] = {
    {"ask", (PyCFunction)(void (*)(void))ask, METH_FASTCALL, NULL},
    {"serve", (PyCFunction)(void (*)(void))serve, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "python_futex", .m_methods = methods};

PyMODINIT_FUNC
PyInit_python_futex(void)
{
    return PyModule_Create(&definition);
}
