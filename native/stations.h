/* Stations: the peers to which this process has a lane, by VMID and by line of our bell.
 *
 * Plain C, but for the references that it keeps. Nothing here blocks or runs Python code.
 */
#ifndef LIBOS_IPC_STATIONS_H
#define LIBOS_IPC_STATIONS_H

#include "index.h"

#include "bell.h"

struct station {
    struct node node; /* key: its VMID */
    unsigned line;
    bool writes; /* our messages go by the lane */
    uint64_t reads_from; /* and theirs come by it, from this reading on; 0: not yet */
    PyObject *lane;
    PyObject *ledger;
};

/* All zero is empty. */
struct stations {
    struct index by_vmid;
    struct station *by_line[BELL_LINES];
};

/* Enters a station; neither VMID nor line is in use. NULL with MemoryError. */
struct station *stations_add(struct stations *stations, uint64_t vmid, unsigned line,
                             PyObject *lane, PyObject *ledger);

/* The station of this VMID, or NULL. */
struct station *stations_find(const struct stations *stations, uint64_t vmid);

/* Takes a station out. What it referred to becomes the caller's, to be dropped afterwards. */
void stations_remove(struct stations *stations, struct station *station, PyObject *dropped[2]);

/* Frees what an empty table keeps. */
void stations_free(struct stations *stations);

#endif
