#include "zeromq.h"

#include "arguments.h"

#include <dlfcn.h>
#include <errno.h>

/* Of ZeroMQ's stable interface, version 4. */
enum { ZMQ_DONTWAIT = 1, ZMQ_SNDMORE = 2, ZMQ_SRCFD = 2, ZMQ_MAJOR = 4 };

struct message {
    _Alignas(void *) unsigned char opaque[64];
};

struct library {
    void (*version)(int *major, int *minor, int *patch);
    int (*error)(void);
    int (*init)(struct message *message);
    int (*receive)(struct message *message, void *socket, int flags);
    void *(*data)(struct message *message);
    size_t (*size)(const struct message *message);
    int (*more)(const struct message *message);
    int (*get)(const struct message *message, int property);
    const char *(*gets)(const struct message *message, const char *property);
    int (*close)(struct message *message);
    int (*send)(void *socket, const void *data, size_t size, int flags);
};

/* Frames given out of one message, its route not counted: one more than any of ours has. */
enum { MOST_FRAMES = 4 };
/* Bytes from which on copying is worth letting other threads run. */
enum { MUCH = 65536 };

struct port {
    PyObject_HEAD
    struct library zmq;
    void *handle; /* of the module that the functions were found through */
    void *socket; /* NULL once closed */
};

static struct port *
port_of(PyObject *self)
{
    return (struct port *)self;
}

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
    }
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

static int
require_open(const struct port *port)
{
    if (port->socket != NULL) {
        return 0;
    }
    PyErr_SetString(PyExc_ValueError, "the port is closed");
    return -1;
}

static PyObject *
zmq_failed(int number)
{
    errno = number;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* The next frame into `message`, which is initialized. 0, or ZeroMQ's error number. */
static int
next_frame(const struct port *port, struct message *message)
{
    while (port->zmq.receive(message, port->socket, ZMQ_DONTWAIT) < 0) {
        const int number = port->zmq.error();
        if (number != EINTR) {
            return number;
        }
    }
    return 0;
}

static PyObject *
bytes_of(const struct port *port, struct message *message)
{
    const size_t size = port->zmq.size(message);
    const void *data = port->zmq.data(message);

    if (size < MUCH) {
        return PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes != NULL) {
        char *to = PyBytes_AS_STRING(bytes);
        Py_BEGIN_ALLOW_THREADS
        memcpy(to, data, size);
        Py_END_ALLOW_THREADS
    }
    return bytes;
}

/* The frames behind the one in `message`, as a list. NULL with an exception. The whole message
 * is taken from the socket in any case, so that the next one begins at its beginning. */
static PyObject *
rest_of(const struct port *port, struct message *message)
{
    PyObject *frames = PyList_New(0);

    while (port->zmq.more(message)) {
        const int number = next_frame(port, message);
        if (number != 0) {
            Py_XDECREF(frames);
            return zmq_failed(number);
        }
        if (frames == NULL || PyList_GET_SIZE(frames) == MOST_FRAMES) {
            continue;
        }
        PyObject *frame = bytes_of(port, message);
        if (frame == NULL || PyList_Append(frames, frame) < 0) {
            Py_CLEAR(frames);
        }
        Py_XDECREF(frame);
    }
    return frames;
}

PyDoc_STRVAR(receive_doc, "receive($self, known, /)\n--\n\n"
                          "The next message, or None: (known[route], frames), or, from a route "
                          "that is not known, (route, user, descriptor, frames).");

/* A message whose first frame, its route, is in `message`. NULL with an exception. */
static PyObject *
whole_message(const struct port *port, struct message *message, PyObject *known)
{
    PyObject *frames = NULL;
    PyObject *result = NULL;
    PyObject *route = bytes_of(port, message);
    PyObject *connection = route == NULL ? NULL : PyDict_GetItemWithError(known, route);

    if (connection != NULL) {
        Py_INCREF(connection);
        frames = rest_of(port, message);
        result = frames == NULL ? NULL : PyTuple_Pack(2, connection, frames);
        Py_DECREF(connection);
    }
    else {
        /* Copied now: it belongs to the frame, which the next one replaces. */
        const char *user = port->zmq.gets(message, "User-Id");
        PyObject *user_id = PyBytes_FromString(user == NULL ? "" : user);
        const int descriptor = port->zmq.get(message, ZMQ_SRCFD);
        frames = rest_of(port, message);
        if (frames != NULL && !PyErr_Occurred()) {
            result = Py_BuildValue("OOiO", route, user_id, descriptor, frames);
        }
        Py_XDECREF(user_id);
    }
    Py_XDECREF(frames);
    Py_XDECREF(route);
    return result;
}

static PyObject *
port_receive(PyObject *self, PyObject *known)
{
    const struct port *port = port_of(self);
    struct message message;
    PyObject *result;

    if (!PyDict_Check(known)) {
        PyErr_SetString(PyExc_TypeError, "receive() takes a dict");
        return NULL;
    }
    if (require_open(port) < 0) {
        return NULL;
    }
    port->zmq.init(&message);
    const int number = next_frame(port, &message);
    if (number == 0) {
        result = whole_message(port, &message, known);
    }
    else {
        result = number == EAGAIN ? Py_NewRef(Py_None) : zmq_failed(number);
    }
    port->zmq.close(&message);
    return result;
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
    if (require_open(port) < 0) {
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
