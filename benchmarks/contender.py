"""A measured program's side: placed, opened once, then asked for rounds over its standard input.

The program is started with its setup (JSON) as only argument. It answers on standard output, one
JSON object a line: `{"ready": true}`, `{"missing": "rpyc"}` or `{"error": "…"}` first, and then
for each number read from standard input the series of one round, `{"round trip": [ns, …]}`. End
of file ends it. Whatever else the program or its libraries print goes to standard error.

What the round trips leave out: the two clock readings around each call are part of it (about
0.1 µs from Python), and the garbage collector runs as it does in any program.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks.placement import pin

PAYLOAD = bytes(range(32))

Setup = dict[str, Any]
Sampler = Callable[[int], Mapping[str, Sequence[float]]]
Opener = Callable[[Setup], AbstractContextManager[Sampler]]

_replies: int | None = None


def main(opener: Opener) -> None:
    """Run `opener` as a contender until standard input ends."""
    global _replies
    _replies = os.dup(1)
    os.dup2(2, 1)
    setup: Setup = json.loads(sys.argv[1])
    pin(setup.get("asking_core"))
    try:
        with opener(setup) as sample:
            _reply({"ready": True})
            for line in sys.stdin:
                _reply(sample(int(line)))
    except ModuleNotFoundError as error:
        _reply({"missing": error.name})
    except Exception as error:
        traceback.print_exc()
        _reply({"error": f"{type(error).__name__}: {error}"})


def timed(call: Callable[[bytes], object], count: int) -> dict[str, list[int]]:
    """Call `call(PAYLOAD)` `count` times; the nanoseconds each took."""
    clock = time.perf_counter_ns
    taken = [0] * count
    for index in range(count):
        started = clock()
        call(PAYLOAD)
        taken[index] = clock() - started
    return {"round trip": taken}


@contextmanager
def answering(serve: Callable[[], None], setup: Setup) -> Iterator[int]:
    """Run `serve` in a forked, placed child, which is killed at the end; gives its OS pid."""
    pid = os.fork()
    if pid == 0:
        try:
            detach_from_replies()
            pin(setup.get("answering_core"))
            serve()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        end(pid)


def detach_from_replies() -> None:
    """In a forked child: keep no end of the pipes to the controlling process."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if _replies is not None:
        os.close(_replies)


def end(pid: int, grace_s: float = 0.0) -> None:
    """Reap child `pid`, killing it if it has not gone by itself within `grace_s` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([descriptor], [], [], grace_s)[0]:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
    except (ChildProcessError, ProcessLookupError):
        pass
    finally:
        os.close(descriptor)


def _reply(answer: Mapping[str, object]) -> None:
    assert _replies is not None
    rest = memoryview(json.dumps(answer).encode() + b"\n")
    while rest:
        rest = rest[os.write(_replies, rest) :]
