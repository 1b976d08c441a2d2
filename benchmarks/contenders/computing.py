"""For contenders whose other end computes: a main thread that runs pure Python when it is told to.

It is told so by a message, for as long as a round lasts, so that it is in no other's way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from benchmarks.contenders.members import ECHO

if TYPE_CHECKING:
    import libos_ipc

COMPUTE = ECHO + 1
LOOK_S = 0.01


class Computing:
    """Lets COMPUTE messages of the group have the main thread compute, or leave it in peace."""

    def __init__(self, group: libos_ipc.Group) -> None:
        self._wanted = threading.Event()

        @group.on(COMPUTE, type=bool)
        def compute(wanted: bool, message: object) -> None:
            (self._wanted.set if wanted else self._wanted.clear)()

    def run(self, ended: Callable[[], object]) -> None:
        """Be that main thread, until `ended`."""
        while not ended():
            self._wanted.wait(LOOK_S)
            while self._wanted.is_set():
                for _ in range(1000):
                    pass


def timed_beside(
    group: libos_ipc.Group, vmid: int, computing: bool, call: Callable[[], object], count: int
) -> Mapping[str, list[int]]:
    """The nanoseconds that each of `count` calls takes, while that process computes or does not."""
    clock = time.perf_counter_ns
    taken = [0] * count
    group.request(vmid, COMPUTE, computing)
    try:
        for index in range(count):
            started = clock()
            call()
            taken[index] = clock() - started
        return {"round trip": taken}
    finally:
        group.request(vmid, COMPUTE, False)
