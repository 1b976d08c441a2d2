"""Ours: a request answered by a Python handler in another member.

The asking end calls `group.request` in its main thread; the handler runs on the other member's
dispatch thread, as handlers do by default, while that member's main thread sleeps. A value is one
request, or `setup["requests"]` of them, one behind the other. What it leaves out: other members'
traffic, and a main thread that computes at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.contender import PAYLOAD, Sampler, Setup, main, timed
from benchmarks.contenders.members import ECHO, founded, member


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    with founded(setup) as group, member(group, setup) as other:
        vmid, times = other.vmid, setup.get("requests", 1)

        def requests(payload: bytes) -> object:
            for _ in range(times - 1):
                group.request(vmid, ECHO, payload)
            return group.request(vmid, ECHO, payload)

        request = partial(group.request, vmid, ECHO) if times == 1 else requests

        assert request(PAYLOAD) == PAYLOAD
        yield lambda count: timed(request, count)


if __name__ == "__main__":
    main(opened)
