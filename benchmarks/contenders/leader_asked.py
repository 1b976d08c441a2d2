"""A member asks the leader who owns an ID, while the group's founder idles or runs pure Python.

The founder is a process of its own, placed as the answering end. The leader is the default one,
and runs where the scheduler puts it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, answering, main
from benchmarks.contenders.computing import Computing, timed_beside
from benchmarks.placement import pin

WARM_UP = 100


def _found(directory: str, setup: Setup, cores: set[int], tell: int) -> None:
    import libos_ipc

    os.sched_setaffinity(0, cores)  # the leader inherits it
    with libos_ipc.Group.create(runtime_dir=directory) as group:
        pin(setup.get("answering_core"))
        computing = Computing(group)
        os.write(tell, f"{group.vmid} {group.token()}\n".encode())
        computing.run(lambda: False)


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    told, tell = os.pipe()
    cores = set(range(os.cpu_count() or 1))
    with (
        tempfile.TemporaryDirectory(prefix="g", ignore_cleanup_errors=True) as directory,
        answering(lambda: _found(directory, setup, cores, tell), {}),
    ):
        os.close(tell)
        vmid, token = os.read(told, 4096).decode().split()
        os.close(told)
        import libos_ipc

        with libos_ipc.Group.join(token) as group:
            id = group.ids.new()

            def ask() -> None:
                assert group.ids.owner(id) == group.vmid

            for _ in range(WARM_UP):
                ask()
            yield lambda count: timed_beside(group, int(vmid), setup["computing"], ask, count)


if __name__ == "__main__":
    main(opened)
