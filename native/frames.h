/* Frames: a message of a link as a transport carries it.
 *
 *   envelope | header and payload            small: two frames
 *   envelope | header | payload              from LARGE bytes on, so that the payload need not be
 *                                            copied to stand behind its header
 *
 * The hot path of both directions in one call each. The same rules hold for untrusted bytes as in
 * codec.h; which of the two shapes a message came in is the sender's choice.
 */
#ifndef LIBOS_IPC_FRAMES_H
#define LIBOS_IPC_FRAMES_H

#include "native.h"

/* Adds the functions and LARGE to the module. */
int frames_setup(PyObject *module);

#endif
