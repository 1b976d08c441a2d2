"""The lanes of one process by themselves, interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import bytecodes
from processes import descriptors

from libos_ipc.runtime import lanes
from libos_ipc.runtime.lanes import Lanes

PEER = 7


class Struck(Exception):
    """As a signal handler raises, in any moment."""


def strike(step: int, act: Callable[[], object]) -> bool:
    """Raise before this step of the interpreter's in `lanes`. False if `act` has not so many."""
    left = step

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != lanes.__file__:
            return None
        if event == "call":
            bytecodes.hear(frame, trace)
        if event == "opcode":
            left -= 1
            if left < 0:
                raise Struck
        return trace

    with suppress(Struck), bytecodes.traced(trace):
        act()
    return left < 0


def test_a_raise_in_any_moment_leaves_no_descriptor() -> None:
    other = Lanes(0)
    before = descriptors()

    def all_of_it(ours: Lanes) -> None:
        fd, line = other.offer(PEER)
        us = os.getpid()
        back = ours.take(PEER, us, fd, other.bell_fd, line)
        other.reach(PEER, us, ours.bell_fd, back)
        ours.offer(PEER + 1)
        ours.drop(PEER)

    step = 0
    while True:
        ours = Lanes(0)
        struck = strike(step, partial(all_of_it, ours))
        ours.close()
        other.drop(PEER)
        del ours
        assert descriptors() == before, f"struck at step {step}"
        if not struck:
            break
        step += 1
    assert step > 100
    other.close()
