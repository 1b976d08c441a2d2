#include "routes.h"

struct route *
routes_add(struct index *routes, uint64_t vmid, PyObject *port, PyObject *name, PyObject *ledger)
{
    if (index_reserve(routes) < 0) {
        return NULL;
    }
    struct route *route = PyMem_Calloc(1, sizeof *route);
    if (route == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    route->node.key = vmid;
    route->port = Py_NewRef(port);
    route->name = Py_NewRef(name);
    route->ledger = Py_NewRef(ledger);
    index_put(routes, &route->node);
    return route;
}

struct route *
routes_find(const struct index *routes, uint64_t vmid)
{
    return (struct route *)index_get(routes, vmid);
}

size_t
routes_slots(const struct index *routes)
{
    return routes->slots == NULL ? 0 : (size_t)1 << routes->bits;
}

const struct route *
routes_at(const struct index *routes, size_t slot)
{
    return (const struct route *)routes->slots[slot];
}

struct route *
routes_any(const struct index *routes)
{
    for (size_t slot = 0; routes->used > 0 && slot < routes_slots(routes); slot++) {
        if (routes->slots[slot] != NULL) {
            return (struct route *)routes->slots[slot];
        }
    }
    return NULL;
}

void
routes_remove(struct index *routes, struct route *route, PyObject *dropped[ROUTE_REFERENCES])
{
    index_remove(routes, &route->node);
    dropped[0] = route->port;
    dropped[1] = route->name;
    dropped[2] = route->ledger;
    PyMem_Free(route);
}
