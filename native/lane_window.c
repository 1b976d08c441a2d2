#define _GNU_SOURCE /* madvise */

#include "lane_parts.h"

#include "arguments.h"

#include <sys/mman.h>

/* The window that this message should find, if that is a larger one: a message as far as it has not
 * gone, or else some times as much as now, for a stream of small ones. 0 if that is no larger. */
static uint64_t
wish_for(const struct lane *lane, const struct waiting *message)
{
    const uint64_t left = message_size(message) - message->done;
    const uint64_t stream = lane->out.window * 4 < STREAM ? lane->out.window * 4 : STREAM;
    const uint64_t wish = left > stream ? left : stream;
    const uint64_t bounded = wish < lane->most ? wish : lane->most;

    return bounded > lane->out.window ? bounded : 0;
}

void
lane_begin_window(struct lane *lane, const struct waiting *message)
{
    const uint64_t size = message_size(message);

    if (message->done != 0 || size <= lane->out.least) {
        return;
    }
    lane->stretched = true;
    if (size > lane->out.window && lane->wish == 0) {
        lane->wish = wish_for(lane, message);
    }
}

bool
lane_make_room(struct lane *lane, const struct waiting *message)
{
    lane->stretched = true;
    if (lane->wish == 0) {
        lane->wish = wish_for(lane, message);
    }
    if (lane->wish != 0 && channel_fit(&lane->out, lane->wish)) {
        lane->wish = 0;
        return true;
    }
    const uint64_t needed = lane->wish != 0      ? lane->out.window
                            : message->done == 0 ? (uint64_t)MESSAGE_HEAD
                                                 : 1;
    return channel_want(&lane->out, needed);
}

bool
lane_stretch(struct lane *lane, uint64_t size)
{
    if (size <= lane->out.least) {
        return true;
    }
    lane->stretched = true;
    return size <= lane->out.window || (size <= lane->most && channel_fit(&lane->out, size));
}

PyObject *
lane_settle(PyObject *self, PyObject *idle)
{
    struct lane *lane = lane_of(self);
    struct channel_end *out = &lane->out;
    const bool needed = lane->stretched && idle != Py_True;

    lane->stretched = false;
    if (lane->memory == NULL || out->window == out->least || lane->first != NULL || needed ||
        !channel_fit(out, 0)) {
        Py_RETURN_NONE;
    }
    /* If the system will not take it back, it is there for the next time. */
    (void)madvise(out->data + out->least, out->capacity - out->least, MADV_REMOVE);
    Py_RETURN_NONE;
}

PyObject *
lane_get_window(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(lane_of(self)->out.window);
}

PyObject *
lane_get_most(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(lane_of(self)->most);
}

int
lane_set_most(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    struct lane *lane = lane_of(self);
    uint64_t most;

    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete most");
        return -1;
    }
    if (as_unsigned(value, "most", UINT64_MAX, &most) < 0) {
        return -1;
    }
    if (most < lane->out.least || most > lane->out.capacity || (most & (most - 1)) != 0) {
        PyErr_Format(PyExc_ValueError, "no window of this lane has %llu bytes",
                     (unsigned long long)most);
        return -1;
    }
    lane->most = most;
    return 0;
}
