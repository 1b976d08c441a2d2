#define _GNU_SOURCE /* MADV_HUGEPAGE */

#include "fresh_bytes.h"

#include <sys/mman.h>
#include <unistd.h>

/* Of a smaller one hardly more than a page or two could be huge, and its memory was mostly used before. */
static const uint64_t LEAST_ADVISED = UINT64_C(4) << 20;

/* The whole pages of it alone are spoken of, so nobody else's memory grows. It is advice: what the system
 * makes of it is the same to us. */
static void
advise(const char *begin, uint64_t size)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t)begin + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)begin + size) / page * page;

    (void)madvise((void *)first, end - first, MADV_HUGEPAGE);
}

PyObject *
fresh_bytes(uint64_t size)
{
    if (size > PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes != NULL && size >= LEAST_ADVISED) {
        advise(PyBytes_AS_STRING(bytes), size);
    }
    return bytes;
}
