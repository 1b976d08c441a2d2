#include "quick_arguments.h"

#include "lock_slot.h"

#include <sys/file.h>

bool
quick_number(PyObject *argument, int64_t *number)
{
    if (!PyLong_CheckExact(argument)) {
        return false;
    }
    int overflow;
    *number = PyLong_AsLongLongAndOverflow(argument, &overflow);
    return overflow == 0;
}

int
quick_descriptor(PyObject *argument, int *fd)
{
    int64_t number;

    if (PyLong_CheckExact(argument)) {
        const bool fits = quick_number(argument, &number) && number >= 0 && number <= INT32_MAX;
        *fd = fits ? (int)number : -1;
        return 0;
    }
    *fd = PyObject_AsFileDescriptor(argument);
    return *fd < 0 ? -1 : 0;
}

bool
quick_type(int64_t operation, uint32_t *type)
{
    if (operation == LOCK_UN) {
        *type = SLOT_NONE;
    } else if ((operation & ~(int64_t)LOCK_NB) == LOCK_EX) {
        *type = SLOT_WRITE;
    } else if ((operation & ~(int64_t)LOCK_NB) == LOCK_SH) {
        *type = SLOT_READ;
    } else {
        return false;
    }
    return true;
}
