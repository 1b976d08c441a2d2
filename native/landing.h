/* Landing: where tickets land that coroutines wait for, until their event loop settles the futures.
 *
 * Whoever has an answer may run no Python code, and is not the thread of the loop. So the ticket is put
 * here, and the loop is woken by an eventfd at which it listens; once for all that land until it comes:
 *
 *     any thread:  put -> the first? -> write        loop:  readable -> take all -> settle each
 *                  put                                      (what is put from here on writes again)
 *
 * While the loop's own thread attends, which takes what is there before it sleeps, nothing is written.
 * Everything changes under the interpreter lock. Nothing blocks.
 */
#ifndef LIBOS_IPC_LANDING_H
#define LIBOS_IPC_LANDING_H

#include "ring.h"

/* Whether an object is a Landing. */
bool landing_check(PyObject *object);

/* Puts a settled ticket here, by its link, and keeps it; nothing if the landing is closed. Runs no Python
 * code. */
void landing_put(PyObject *landing, PyObject *ticket, struct link *link);

int landing_setup(PyObject *module);

#endif
