#include "python_lock.h"

/* A method, by a name that is interned: the interpreter keeps others in its caches. */
static PyObject *
method_of(PyObject *lock, const char *name)
{
    PyObject *interned = PyUnicode_InternFromString(name);
    PyObject *method = interned == NULL ? NULL : PyObject_GetAttr(lock, interned);

    Py_XDECREF(interned);
    return method;
}

int
python_lock_bind(struct python_lock *self, PyObject *lock)
{
    self->locked = method_of(lock, "locked");
    self->acquire = self->locked == NULL ? NULL : method_of(lock, "acquire");
    self->release = self->acquire == NULL ? NULL : method_of(lock, "release");
    return self->release == NULL ? -1 : 0;
}

void
python_lock_clear(struct python_lock *self)
{
    Py_CLEAR(self->locked);
    Py_CLEAR(self->acquire);
    Py_CLEAR(self->release);
}

int
python_lock_traverse(const struct python_lock *self, visitproc visit, void *arg)
{
    Py_VISIT(self->locked);
    Py_VISIT(self->acquire);
    Py_VISIT(self->release);
    return 0;
}

static int
truth_of(PyObject *result)
{
    if (result == NULL) {
        return -1;
    }
    const int truth = PyObject_IsTrue(result);
    Py_DECREF(result);
    return truth;
}

int
python_lock_is_held(const struct python_lock *self)
{
    return truth_of(PyObject_CallNoArgs(self->locked));
}

int
python_lock_acquire(const struct python_lock *self)
{
    return truth_of(PyObject_CallNoArgs(self->acquire));
}

int
python_lock_try(const struct python_lock *self)
{
    return truth_of(PyObject_CallOneArg(self->acquire, Py_False));
}

void
python_lock_release(const struct python_lock *self)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    Py_XDECREF(PyObject_CallNoArgs(self->release));
    PyErr_Restore(type, value, traceback);
}
