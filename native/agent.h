/* Who asks: the number of the running thread, unless it may be a task of asyncio that does.
 *
 * Asyncio itself is asked, if the program has imported it: by a function that is looked up once. Runs
 * no other Python code. Does not block.
 */
#ifndef LIBOS_IPC_AGENT_H
#define LIBOS_IPC_AGENT_H

#include "native.h"

struct agent_look {
    PyObject *asyncio;  /* the module's name; all NULL to begin with */
    PyObject *get_loop; /* the function; NULL as long as the module is not imported */
};

/* -1 with MemoryError. */
int agent_look_begin(struct agent_look *look);
void agent_look_end(struct agent_look *look);

/* The number of the running thread; 0 if an event loop runs in it, -1 with an exception. */
int64_t agent_here(struct agent_look *look);

#endif
