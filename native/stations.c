#include "stations.h"

struct station *
stations_add(struct stations *stations, uint64_t vmid, unsigned line, PyObject *lane,
             PyObject *ledger)
{
    if (index_reserve(&stations->by_vmid) < 0) {
        return NULL;
    }
    struct station *station = PyMem_Calloc(1, sizeof *station);
    if (station == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    station->node.key = vmid;
    station->line = line;
    station->lane = Py_NewRef(lane);
    station->ledger = Py_NewRef(ledger);
    index_put(&stations->by_vmid, &station->node);
    stations->by_line[line] = station;
    return station;
}

struct station *
stations_find(const struct stations *stations, uint64_t vmid)
{
    return (struct station *)index_get(&stations->by_vmid, vmid);
}

void
stations_remove(struct stations *stations, struct station *station, PyObject *dropped[2])
{
    index_remove(&stations->by_vmid, &station->node);
    stations->by_line[station->line] = NULL;
    dropped[0] = station->lane;
    dropped[1] = station->ledger;
    PyMem_Free(station);
}

void
stations_free(struct stations *stations)
{
    index_free(&stations->by_vmid);
}
