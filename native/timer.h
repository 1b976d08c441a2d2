/* A descriptor that becomes readable after a while: who polls it is woken then, and nobody before, as
 * he would be who had to be told of another time-out. Python has these from 3.13 on.
 *
 * Neither call blocks, so the interpreter lock is kept.
 */
#ifndef LIBOS_IPC_TIMER_H
#define LIBOS_IPC_TIMER_H

#include "native.h"

int timer_setup(PyObject *module);

#endif
