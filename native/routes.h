/* Routes: the peers to which this process has a connection, by VMID.
 *
 * Plain C, but for the references that it keeps. Nothing here blocks or runs Python code.
 */
#ifndef LIBOS_IPC_ROUTES_H
#define LIBOS_IPC_ROUTES_H

#include "index.h"

struct route {
    struct node node; /* key: its VMID */
    PyObject *port;   /* our messages go out by it */
    PyObject *name;   /* what the port knows the connection by */
    PyObject *ledger;
};

enum { ROUTE_REFERENCES = 3 };

/* Enters a route; the VMID has none. NULL with MemoryError. */
struct route *routes_add(struct index *routes, uint64_t vmid, PyObject *port, PyObject *name,
                         PyObject *ledger);

/* The route to this VMID, or NULL. */
struct route *routes_find(const struct index *routes, uint64_t vmid);

/* Any route, NULL if there is none: to take them out one by one. */
struct route *routes_any(const struct index *routes);

/* Takes a route out. What it referred to becomes the caller's, to be dropped afterwards. */
void routes_remove(struct index *routes, struct route *route, PyObject *dropped[ROUTE_REFERENCES]);

/* The route in this slot of the table, NULL if it is empty: for those who visit all of them. */
const struct route *routes_at(const struct index *routes, size_t slot);
size_t routes_slots(const struct index *routes);

#endif
