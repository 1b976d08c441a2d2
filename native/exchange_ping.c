#include "exchange_parts.h"

#include "arguments.h"
#include "calls.h"
#include "clock.h"
#include "doorbell.h"
#include "lane.h"

/* The lane at whose other end this peer's clerk can be asked; NULL, also with an exception. */
static PyObject *
lane_to(const struct exchange *exchange, PyObject *argument)
{
    uint64_t peer;

    if (as_unsigned(argument, "peer", UINT32_MAX, &peer) < 0) {
        return NULL;
    }
    const struct station *station = stations_find(&exchange->stations, peer);
    const bool may = station != NULL && station->writes && station->reads_from != 0 &&
                     lane_may_ask(lane_of(station->lane)) &&
                     outstanding_table(exchange->requests)->last != UINT64_MAX;
    return may ? station->lane : NULL;
}

PyObject *
exchange_ping(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    int64_t deadline = INT64_MAX;
    double seconds;

    if (require_count("ping", nargs, 2) < 0) {
        return NULL;
    }
    if (args[1] != Py_None) {
        if (as_seconds(args[1], &seconds) < 0) {
            return NULL;
        }
        deadline = after_seconds(seconds);
    }
    PyObject *lane = lane_to(exchange, args[0]);
    if (lane == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    struct header header = {.code = PING};
    header.seq = requests_number(outstanding_table(exchange->requests));
    const int result = lane_ask(lane, &header, deadline, doorbell_spin(exchange->doorbell));
    if (result < 0) {
        return NULL;
    }
    return result == 2 ? Py_NewRef(Py_None) : PyBool_FromLong(result);
}
