#include "exchange_parts.h"

#include "arguments.h"
#include "lane.h"

static void
drop_station(struct exchange *exchange, struct station *station)
{
    PyObject *dropped[2];

    stations_remove(&exchange->stations, station, dropped);
    Py_DECREF(dropped[0]);
    Py_DECREF(dropped[1]);
}

void
exchange_drop_stations(struct exchange *exchange)
{
    for (unsigned line = 0; line < BELL_LINES; line++) {
        if (exchange->stations.by_line[line] != NULL) {
            drop_station(exchange, exchange->stations.by_line[line]);
        }
    }
}

PyObject *
exchange_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct exchange *exchange = exchange_of(self);
    uint64_t peer;
    uint64_t line;

    if (require_count("connect", nargs, 4) < 0 ||
        as_unsigned(args[0], "peer", UINT32_MAX, &peer) < 0 ||
        as_unsigned(args[1], "line", BELL_LINES - 1, &line) < 0) {
        return NULL;
    }
    const struct native_state *state = PyType_GetModuleState(Py_TYPE(self));
    if (!lane_check(args[2]) || !PyObject_TypeCheck(args[3], (PyTypeObject *)state->ledger)) {
        PyErr_SetString(PyExc_TypeError, "connect() takes a Lane and a Ledger");
        return NULL;
    }
    if (exchange->closed) {
        Py_RETURN_NONE;
    }
    if (stations_find(&exchange->stations, peer) != NULL || exchange->stations.by_line[line] != NULL) {
        PyErr_SetString(PyExc_ValueError, "the peer is connected, or the line is in use");
        return NULL;
    }
    if (stations_add(&exchange->stations, peer, (unsigned)line, args[2], args[3]) == NULL) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The station that an argument names: NULL without an exception if there is none. */
static struct station *
station_of(struct exchange *exchange, PyObject *argument)
{
    uint64_t peer;

    if (as_unsigned(argument, "peer", UINT32_MAX, &peer) < 0) {
        return NULL;
    }
    return stations_find(&exchange->stations, peer);
}

/* The same, complaining if there is none in an exchange that is open. */
static struct station *
station_to_use(struct exchange *exchange, PyObject *argument)
{
    struct station *station = station_of(exchange, argument);

    if (station == NULL && !PyErr_Occurred() && !exchange->closed) {
        PyErr_SetString(PyExc_ValueError, "the peer is not connected");
    }
    return station;
}

PyObject *
exchange_write(PyObject *self, PyObject *argument)
{
    struct station *station = station_to_use(exchange_of(self), argument);

    if (station != NULL) {
        station->writes = true;
    }
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* Not in a reading that is under way: whoever reads for handlers has seen before it that nothing is
 * queued, and what came by connections may have been queued since. */
PyObject *
exchange_read_from(PyObject *self, PyObject *argument)
{
    struct exchange *exchange = exchange_of(self);
    struct station *station = station_to_use(exchange, argument);

    if (station != NULL) {
        station->reads_from = exchange->reading + 1;
    }
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

PyObject *
exchange_disconnect(PyObject *self, PyObject *argument)
{
    struct station *station = station_of(exchange_of(self), argument);

    if (station != NULL) {
        drop_station(exchange_of(self), station);
    } else if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}
