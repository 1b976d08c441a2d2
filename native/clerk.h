/* Clerk: a thread that answers what needs no interpreter, at the desks of this process's lanes.
 *
 * It is a plain thread of the system that never asks for the interpreter lock: a process whose main
 * thread computes, or whose other threads all wait for that lock, answers as fast as one that idles.
 * It knows one question, whether the process is there (PING). What it does not know it leaves: its
 * asker then sends a message.
 *
 * It sleeps on a bell of its own, beside the one that tells of messages, and is there from the first
 * desk on. Around a fork it is ended and begun again, as all threads are; what is asked meanwhile
 * waits on the desks.
 */
#ifndef LIBOS_IPC_CLERK_H
#define LIBOS_IPC_CLERK_H

#include "native.h"

int clerk_setup(PyObject *module);

#endif
