/* Port: one ZeroMQ socket of pyzmq's, used without pyzmq's layer in between.
 *
 * A message of a link is three or four frames, and pyzmq makes an object and a handful of calls
 * of each. A Port takes a whole message in one call, by the functions of the very library that
 * pyzmq has loaded: they are looked up through the extension module that the socket came from,
 * never in another copy of ZeroMQ that the process may have. Nothing is linked or loaded.
 *
 * Nothing blocks: ZeroMQ is called with ZMQ_DONTWAIT, and with the interpreter lock held unless
 * there is much to copy. As with any ZeroMQ socket, one thread at a time may use a port; the
 * caller sees to it, also that the socket is open, until it calls `close`.
 *
 * What comes in is untrusted, but ZeroMQ has bounded each frame (ZMQ_MAXMSGSIZE). Of a message of
 * many frames only so many are given out that it is known to be none of ours.
 */
#ifndef LIBOS_IPC_ZEROMQ_H
#define LIBOS_IPC_ZEROMQ_H

#include "native.h"

/* Adds the type to the module. */
int zeromq_setup(PyObject *module);

#endif
