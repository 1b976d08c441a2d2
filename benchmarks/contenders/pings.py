"""Our `group.ping` of a member, whose main thread idles or runs pure Python.

What it leaves out: a payload (33 bytes go either way, which is envelope and header); and pings
where there is no lane, which are messages like all others.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.contender import PAYLOAD, Sampler, Setup, main
from benchmarks.contenders.computing import Computing, timed_beside
from benchmarks.contenders.members import ECHO, founded, member

#: Messages after which there certainly is a lane.
WARM_UP = 100


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    with founded(setup) as group:
        computing = Computing(group)

        def body(until: int) -> None:
            computing.run(lambda: select.select([until], [], [], 0)[0])

        with member(group, setup, body) as other:
            vmid = other.vmid
            for _ in range(WARM_UP):
                group.request(vmid, ECHO, PAYLOAD)
            assert group._node.session.exchange.ping(vmid, 5.0), "nobody at the desk"

            ping, computes = partial(group.ping, vmid), setup["computing"]
            yield lambda count: timed_beside(group, vmid, computes, ping, count)


if __name__ == "__main__":
    main(opened)
