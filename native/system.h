/* The few system calls that Python does not offer.
 *
 * They return at once, so the interpreter lock is kept. Numbers name processes, threads and
 * descriptors of the kernel; whether a number still means who it once meant is the caller's
 * business.
 */
#ifndef LIBOS_IPC_SYSTEM_H
#define LIBOS_IPC_SYSTEM_H

#include "native.h"

struct system_file {
    uint64_t device;
    uint64_t inode;
};

/* Which file a descriptor of this process is of: false if it is none. No file system is waited for.
 * `no_path` is what the kernel takes for no path, which is quickest told by NULL: that to begin with, and
 * kept by the caller, for before Linux 6.11 it is "". */
bool system_file_of(int fd, const char **no_path, struct system_file *file);

/* Whether two descriptors of this process are of one open file description: 1, 0, or -1 if the kernel
 * does not tell. */
int system_is_same_file(int fd, int other);

int system_setup(PyObject *module);

#endif
