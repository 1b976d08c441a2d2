"""Ours, in a fresh interpreter: from nothing to the first answer; prints two times.

First argument `leader`: the group is founded and its leader is asked who owns an ID. `member`: it
is founded, a member is forked and that one's Python handler is asked. Second argument: an empty
directory. Printed are the nanoseconds of the import, and from `Group.create` to the answer.

The start of the interpreter is left out. Nothing is imported here that the library might import
too, so that all it needs is counted.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import libos_ipc

ECHO = 64


def main() -> None:
    whom, directory = sys.argv[1:]
    started = time.perf_counter_ns()
    import libos_ipc

    imported = time.perf_counter_ns()
    with libos_ipc.Group.create(runtime_dir=directory) as group:
        if whom == "leader":
            group.ids.owner(group.pid)
            answered = time.perf_counter_ns()
        else:
            answered = ask_forked_member(group)
    print(imported - started, answered - imported)


def ask_forked_member(group: libos_ipc.Group) -> int:
    @group.on(ECHO)
    def echo(message: libos_ipc.Message) -> object:
        return message.payload

    told, tell = os.pipe()
    until, leave = os.pipe()
    pid = group.fork()
    if pid == 0:
        os.close(leave)
        os.write(tell, group.vmid.to_bytes(4, "little"))
        os.read(until, 1)
        group.close()
        os._exit(0)
    vmid = int.from_bytes(os.read(told, 4), "little")
    assert group.request(vmid, ECHO, b"first") == b"first"
    answered = time.perf_counter_ns()
    os.close(leave)
    group.wait(pid, timeout=5.0)
    return answered


if __name__ == "__main__":
    main()
