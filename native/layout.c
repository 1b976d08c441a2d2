#include "layout.h"

#include "arguments.h"
#include "fields.h"

struct layout {
    PyObject_HEAD
    Py_ssize_t count; /* of the fields */
    Py_ssize_t size;  /* of the fields, in bytes */
    Py_ssize_t tail;  /* how many bytes may follow them */
    const struct field *fields[MOST_FIELDS];
};

static struct layout *
as_layout(PyObject *self)
{
    return (struct layout *)self;
}

static int
set_fields(struct layout *self, const char *letters, Py_ssize_t count)
{
    if (count > MOST_FIELDS) {
        PyErr_Format(PyExc_ValueError, "a layout has at most %d fields, not %zd", MOST_FIELDS,
                     count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        self->fields[i] = field_of(letters[i]);
        if (self->fields[i] == NULL) {
            PyErr_Format(PyExc_ValueError, "field %zd of a layout is none of BHIiQq", i);
            return -1;
        }
        self->size += self->fields[i]->width;
    }
    self->count = count;
    return 0;
}

PyDoc_STRVAR(layout_doc, "Layout(fields, tail=0)\n--\n\n"
                         "The fixed fields of a payload (letters of BHIiQq, as in struct after "
                         "'<'), and the most bytes that may follow them.");

static PyObject *
layout_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    char *names[] = {"fields", "tail", NULL};
    PyObject *fields;
    Py_ssize_t count;
    Py_ssize_t tail = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "U|n:Layout", names, &fields, &tail)) {
        return NULL;
    }
    const char *letters = PyUnicode_AsUTF8AndSize(fields, &count);
    if (letters == NULL) {
        return NULL;
    }
    if (tail < 0 || tail > PY_SSIZE_T_MAX - 8 * MOST_FIELDS) {
        PyErr_Format(PyExc_ValueError, "a tail of at most %zd bytes is no bound", tail);
        return NULL;
    }
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    as_layout(self)->tail = tail;
    if (set_fields(as_layout(self), letters, count) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static int
layout_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
layout_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
layout_get_fields(PyObject *self, void *Py_UNUSED(closure))
{
    char letters[MOST_FIELDS];

    for (Py_ssize_t i = 0; i < as_layout(self)->count; i++) {
        letters[i] = as_layout(self)->fields[i]->letter;
    }
    return PyUnicode_FromStringAndSize(letters, as_layout(self)->count);
}

static PyObject *
layout_get_size(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(as_layout(self)->size);
}

static PyObject *
layout_get_tail(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(as_layout(self)->tail);
}

static PyObject *
layout_repr(PyObject *self)
{
    PyObject *fields = layout_get_fields(self, NULL);
    if (fields == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat("Layout(%R, tail=%zd)", fields, as_layout(self)->tail);
    Py_DECREF(fields);
    return text;
}

/* The buffer of the keyword `tail`, empty if it was not given. The caller releases it. */
static int
get_tail(struct layout *self, PyObject *const *named, PyObject *kwnames, Py_buffer *tail)
{
    const Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);

    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(name, "tail") != 0) {
            PyErr_Format(PyExc_TypeError, "pack() has no argument %R", name);
            return -1;
        }
        if (PyObject_GetBuffer(named[i], tail, PyBUF_SIMPLE) < 0) {
            return -1;
        }
    }
    if (tail->len > self->tail) {
        PyErr_Format(PyExc_ValueError, "a tail of %zd bytes is longer than %zd", tail->len,
                     self->tail);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(layout_pack_doc, "pack($self, /, *fields, tail=b'')\n--\n\n"
                              "The payload of these fields and these bytes.");

static PyObject *
layout_pack(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct layout *self = as_layout(object);
    Py_buffer tail = {0};
    PyObject *payload = NULL;

    if (nargs != self->count) {
        PyErr_Format(PyExc_TypeError, "%R packs %zd fields, got %zd", object, self->count, nargs);
        goto done;
    }
    if (get_tail(self, args + nargs, kwnames, &tail) < 0) {
        goto done;
    }
    payload = PyBytes_FromStringAndSize(NULL, self->size + tail.len);
    if (payload == NULL) {
        goto done;
    }
    unsigned char *at = (unsigned char *)PyBytes_AS_STRING(payload);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (store_field(self->fields[i], args[i], at) < 0) {
            Py_CLEAR(payload);
            goto done;
        }
        at += self->fields[i]->width;
    }
    if (tail.len > 0) {
        memcpy(at, tail.buf, (size_t)tail.len);
    }
done:
    PyBuffer_Release(&tail);
    return payload;
}

static int
check_length(PyObject *object, Py_ssize_t length)
{
    const struct layout *self = as_layout(object);

    if (self->size <= length && length <= self->size + self->tail) {
        return 0;
    }
    const struct native_state *state = PyType_GetModuleState(Py_TYPE(object));
    if (self->tail == 0) {
        PyErr_Format(state->malformed, "expected %zd bytes, found %zd", self->size, length);
    }
    else {
        PyErr_Format(state->malformed, "expected %zd to %zd bytes, found %zd", self->size,
                     self->size + self->tail, length);
    }
    return -1;
}

PyDoc_STRVAR(layout_unpack_doc, "unpack($self, payload, /)\n--\n\n"
                                "The fields, and after them the tail as bytes if the layout has "
                                "one.");

static PyObject *
layout_unpack(PyObject *object, PyObject *argument)
{
    struct layout *self = as_layout(object);
    Py_buffer payload = {0};
    PyObject *values = NULL;

    if (PyObject_GetBuffer(argument, &payload, PyBUF_SIMPLE) < 0 ||
        check_length(object, payload.len) < 0) {
        goto done;
    }
    values = PyTuple_New(self->count + (self->tail > 0));
    if (values == NULL) {
        goto done;
    }
    const unsigned char *at = payload.buf;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(values); i++) {
        PyObject *value;
        if (i < self->count) {
            value = load_field(self->fields[i], at);
            at += self->fields[i]->width;
        }
        else {
            value = PyBytes_FromStringAndSize((const char *)at, payload.len - self->size);
        }
        if (value == NULL) {
            Py_CLEAR(values);
            goto done;
        }
        PyTuple_SET_ITEM(values, i, value);
    }
done:
    PyBuffer_Release(&payload);
    return values;
}

static PyMethodDef layout_methods[] = {
    {"pack", NATIVE_METHOD(layout_pack), METH_FASTCALL | METH_KEYWORDS, layout_pack_doc},
    {"unpack", layout_unpack, METH_O, layout_unpack_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef layout_attributes[] = {
    {"fields", layout_get_fields, NULL, "The letters of the fixed fields.", NULL},
    {"size", layout_get_size, NULL, "Bytes of the fixed fields.", NULL},
    {"tail", layout_get_tail, NULL, "Most bytes that may follow the fixed fields.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* clang-format off */
static PyType_Slot layout_slots[] = {
    {Py_tp_doc, (void *)layout_doc},
    {Py_tp_new, layout_new},
    {Py_tp_dealloc, layout_dealloc},
    {Py_tp_traverse, layout_traverse},
    {Py_tp_repr, layout_repr},
    {Py_tp_methods, layout_methods},
    {Py_tp_getset, layout_attributes},
    {0, NULL},
};
/* clang-format on */

static PyType_Spec layout_spec = {
    .name = "libos_ipc._native.Layout",
    .basicsize = sizeof(struct layout),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = layout_slots,
};

int
layout_setup(PyObject *module)
{
    return native_add_type(module, &layout_spec);
}
