#include "box.h"

#include <structmember.h>

static int
box_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"value", NULL};
    PyObject *value;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Box", names, &value)) {
        return -1;
    }
    Py_XSETREF(box_of(self)->value, Py_NewRef(value));
    return 0;
}

static int
box_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(box_of(self)->value);
    return 0;
}

static int
box_clear(PyObject *self)
{
    Py_CLEAR(box_of(self)->value);
    return 0;
}

static void
box_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    box_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef box_members[] = {
    {"value", T_OBJECT_EX, offsetof(struct box, value), 0, "The value: set it, or change it in place."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(box_doc, "QuickBox(value)\n--\n\nWhat an exclusive block is given; see native/box.h.");

static PyType_Slot box_slots[] = {
    {Py_tp_doc, (void *)box_doc},         {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, box_init},               {Py_tp_dealloc, box_dealloc},
    {Py_tp_traverse, box_traverse},       {Py_tp_clear, box_clear},
    {Py_tp_members, box_members},         {0, NULL},
};

static PyType_Spec box_spec = {
    .name = "libos_ipc._native.QuickBox",
    .basicsize = sizeof(struct box),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = box_slots,
};

bool
box_check_type(PyObject *type)
{
    return native_is_kind(type, box_dealloc);
}

int
box_setup(PyObject *module)
{
    return native_add_type(module, &box_spec);
}
