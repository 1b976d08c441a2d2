#include "agent.h"

#include "thread_number.h"

int
agent_look_begin(struct agent_look *look)
{
    look->asyncio = PyUnicode_FromString("asyncio");
    return look->asyncio == NULL ? -1 : 0;
}

void
agent_look_end(struct agent_look *look)
{
    Py_CLEAR(look->asyncio);
    Py_CLEAR(look->get_loop);
}

/* 1, 0 if the module is not imported, -1 with an exception. */
static int
find_function(struct agent_look *look)
{
    PyObject *module = PyDict_GetItemWithError(PyImport_GetModuleDict(), look->asyncio);

    if (module == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    /* Interned, since the interpreter's cache of attributes keeps every other name. */
    PyObject *name = PyUnicode_InternFromString("_get_running_loop");
    look->get_loop = name == NULL ? NULL : PyObject_GetAttr(module, name);
    Py_XDECREF(name);
    if (look->get_loop == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* another thread is about to import it: no loop runs yet */
        return 0;
    }
    return look->get_loop == NULL ? -1 : 1;
}

int64_t
agent_here(struct agent_look *look)
{
    if (look->get_loop == NULL) {
        const int found = find_function(look);
        if (found <= 0) {
            return found < 0 ? -1 : (int64_t)thread_number();
        }
    }
    PyObject *loop = PyObject_CallNoArgs(look->get_loop);
    if (loop == NULL) {
        return -1;
    }
    const bool none = loop == Py_None;
    Py_DECREF(loop);
    return none ? thread_number() : 0;
}
