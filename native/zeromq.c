#include "zeromq_parts.h"

#include "arguments.h"
#include "codec.h"
#include "zeromq_accept.h"

#include <dlfcn.h>
#include <errno.h>

/* Finds every function. -1 with OSError. */
static int
find_functions(void *handle, struct library *zmq)
{
    const struct {
        const char *name;
        void *place;
    } wanted[] = {
        {"zmq_version", &zmq->version},     {"zmq_errno", &zmq->error},
        {"zmq_msg_init", &zmq->init},       {"zmq_msg_recv", &zmq->receive},
        {"zmq_msg_data", &zmq->data},       {"zmq_msg_size", &zmq->size},
        {"zmq_msg_more", &zmq->more},       {"zmq_msg_get", &zmq->get},
        {"zmq_msg_gets", &zmq->gets},       {"zmq_msg_close", &zmq->close},
        {"zmq_send", &zmq->send},
    };
    int major = 0;
    int minor = 0;
    int patch = 0;

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        void *found = dlsym(handle, wanted[i].name);
        if (found == NULL) {
            PyErr_Format(PyExc_OSError, "ZeroMQ's %s cannot be found", wanted[i].name);
            return -1;
        }
        memcpy(wanted[i].place, &found, sizeof(found));
    }
    zmq->version(&major, &minor, &patch);
    if (major != ZMQ_MAJOR) {
        PyErr_Format(PyExc_OSError, "ZeroMQ %d.%d.%d is not known", major, minor, patch);
        return -1;
    }
    return 0;
}

static PyObject *
port_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    char *names[] = {"module", "socket", NULL};
    PyObject *path = NULL;
    PyObject *address;
    uint64_t socket;
    PyObject *self = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O:Port", names, PyUnicode_FSConverter, &path,
                                     &address) ||
        as_unsigned(address, "socket", UINTPTR_MAX, &socket) < 0) {
        goto done;
    }
    void *handle = dlopen(PyBytes_AS_STRING(path), RTLD_LAZY | RTLD_NOLOAD);
    if (handle == NULL) {
        PyErr_Format(PyExc_OSError, "%S is not loaded", path);
        goto done;
    }
    self = type->tp_alloc(type, 0);
    if (self == NULL) {
        dlclose(handle);
        goto done;
    }
    port_of(self)->handle = handle;
    port_of(self)->socket = (void *)(uintptr_t)socket;
    if (find_functions(handle, &port_of(self)->zmq) < 0) {
        Py_CLEAR(self);
        goto done;
    }
    /* Where its tables are not understood, a shortage of descriptors stays ZeroMQ's affair. */
    (void)zeromq_accept_patiently((const void *)port_of(self)->zmq.send);
done:
    Py_XDECREF(path);
    return self;
}

static void
port_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    dlclose(port_of(self)->handle);
    type->tp_free(self);
    Py_DECREF(type);
}

int
port_require_open(const struct port *port)
{
    if (port->socket != NULL) {
        return 0;
    }
    PyErr_SetString(PyExc_ValueError, "the port is closed");
    return -1;
}

PyObject *
port_failed(int number)
{
    errno = number;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* One frame out. 0, or ZeroMQ's error number. */
static int
send_frame(const struct port *port, const Py_buffer *frame, int flags)
{
    int number = 0;

    do {
        int sent;
        if ((size_t)frame->len < MUCH) {
            sent = port->zmq.send(port->socket, frame->buf, (size_t)frame->len, flags);
            number = sent < 0 ? port->zmq.error() : 0;
        }
        else {
            Py_BEGIN_ALLOW_THREADS
            sent = port->zmq.send(port->socket, frame->buf, (size_t)frame->len, flags);
            number = sent < 0 ? port->zmq.error() : 0;
            Py_END_ALLOW_THREADS
        }
    } while (number == EINTR);
    return number;
}

/* Like `send_frame`, of a frame so small that nobody is kept waiting. */
static bool
send_small(const struct port *port, const void *data, size_t size, int flags)
{
    int sent;

    do {
        sent = port->zmq.send(port->socket, data, size, ZMQ_DONTWAIT | flags);
    } while (sent < 0 && port->zmq.error() == EINTR);
    return sent >= 0;
}

bool
port_post(PyObject *self, PyObject *route, const struct envelope *envelope,
          const struct header *header, const Py_buffer *payload)
{
    const struct port *port = port_of(self);
    unsigned char first[ENVELOPE_SIZE];
    unsigned char second[HEADER_SIZE + PORT_SMALL];

    store_envelope(first, envelope);
    store_header(second, header);
    memcpy(second + HEADER_SIZE, payload->buf, (size_t)payload->len);
    return send_small(port, PyBytes_AS_STRING(route), (size_t)PyBytes_GET_SIZE(route),
                      ZMQ_SNDMORE) &&
           send_small(port, first, ENVELOPE_SIZE, ZMQ_SNDMORE) &&
           send_small(port, second, HEADER_SIZE + (size_t)payload->len, 0);
}

bool
port_is_open(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == port_dealloc && port_of(object)->socket != NULL;
}

PyDoc_STRVAR(receive_doc, "receive($self, known, /)\n--\n\n"
                          "The next message, or None: (known[route], frames), or, from a route "
                          "that is not known, (route, user, descriptor, frames).");

PyDoc_STRVAR(send_doc, "send($self, route, frames, /)\n--\n\n"
                       "Queue a message of these frames to this route. False if it cannot go.");

static PyObject *
port_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    const struct port *port = port_of(self);
    Py_buffer buffers[MOST_FRAMES + 1];
    Py_ssize_t held = 0;
    int number = 0;
    PyObject *result = NULL;

    if (nargs != 2 || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "send() takes a route and a tuple");
        return NULL;
    }
    const Py_ssize_t count = 1 + PyTuple_GET_SIZE(args[1]);
    if (count < 2 || count > MOST_FRAMES + 1) {
        PyErr_Format(PyExc_ValueError, "1 to %d frames can be sent", MOST_FRAMES);
        return NULL;
    }
    if (port_require_open(port) < 0) {
        return NULL;
    }
    /* All are at hand before the first goes: a message is never sent in part. */
    for (; held < count; held++) {
        PyObject *frame = held == 0 ? args[0] : PyTuple_GET_ITEM(args[1], held - 1);
        if (PyObject_GetBuffer(frame, &buffers[held], PyBUF_SIMPLE) < 0) {
            goto done;
        }
    }
    for (Py_ssize_t i = 0; i < count && number == 0; i++) {
        const int flags = ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0);
        number = send_frame(port, &buffers[i], flags);
    }
    result = PyBool_FromLong(number == 0);
done:
    while (held > 0) {
        PyBuffer_Release(&buffers[--held]);
    }
    return result;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Use the socket no more. To be called before it is closed.");

static PyObject *
port_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    port_of(self)->socket = NULL;
    Py_RETURN_NONE;
}

static PyMethodDef port_methods[] = {
    {"receive", port_receive, METH_O, receive_doc},
    {"send", NATIVE_METHOD(port_send), METH_FASTCALL, send_doc},
    {"close", port_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(port_doc, "Port(module, socket)\n--\n\n"
                       "A socket of ZeroMQ at this address, used by the functions that the "
                       "extension module of this path is linked to. OSError if there are none.");

static PyType_Slot port_slots[] = {
    {Py_tp_doc, (void *)port_doc}, {Py_tp_new, port_new},         {Py_tp_dealloc, port_dealloc},
    {Py_tp_methods, port_methods}, {0, NULL},
};

static PyType_Spec port_spec = {
    .name = "libos_ipc._native.Port",
    .basicsize = sizeof(struct port),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = port_slots,
};

int
zeromq_setup(PyObject *module)
{
    return native_add_type(module, &port_spec);
}
