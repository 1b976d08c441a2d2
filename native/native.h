/* What every file of the extension shares: the interpreter's header, the state of a module,
 * and how a method of several arguments enters a method table.
 *
 * This is the only file that includes Python.h. The extension keeps no static mutable state:
 * whatever lives longer than a call belongs to a module object, so that each interpreter of a
 * process has its own copy. The exceptions are not ours: the kernel's number of a thread
 * (thread_number.c), and the tables of ZeroMQ's library (zeromq_accept.c). Every file with something to export has one setup function, which
 * module.c calls once per module object.
 */
#ifndef LIBOS_IPC_NATIVE_H
#define LIBOS_IPC_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Dropped with the module. The types that need it are not subclassable, so that the type of an
 * instance always leads back here: PyType_GetModuleState(Py_TYPE(self)). */
struct native_state {
    PyObject *malformed;  /* class Malformed(ValueError): input that is not what it should be */
    PyObject *ledger;     /* class Ledger */
    PyObject *ticket;     /* class Ticket */
    PyObject *descriptor; /* class Descriptor */
};

static inline struct native_state *
native_state_of(PyObject *module)
{
    return (struct native_state *)PyModule_GetState(module);
}

/* Makes a type and adds it to the module under its name. -1 with an exception. */
static inline int
native_add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    const int added = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return added;
}

/* Whether this is a type, or derived from one, whose instances are ended by that function. */
static inline bool
native_is_kind(PyObject *type, destructor end)
{
    const PyTypeObject *base = PyType_Check(type) ? (PyTypeObject *)type : NULL;

    while (base != NULL && base->tp_dealloc != end) {
        base = base->tp_base;
    }
    return base != NULL;
}

/* A PyCFunctionFastWithKeywords in a PyMethodDef, by way of a type that every function pointer
 * may be cast to without a warning. */
#define NATIVE_METHOD(function) ((PyCFunction)(void (*)(void))(function))

#endif
