"""Peers: an uncontended lock of `filelock`, `portalocker` or `fasteners`, acquired and released.

All three open the file, lock it by the kernel (`flock`, or `lockf`) and close it again, each time.
The object that does so is made once, as ours is. None of them is fair or tells of a deadlock; to
wait, `filelock` and `fasteners` look again now and then, and `portalocker`, as it is used here,
waits in the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main
from benchmarks.contenders.ours_locks import timed_pairs

Calls = tuple[Callable[[], object], Callable[[], object]]


def lock_of(package: str, path: str) -> Calls:
    """How this package acquires and releases a lock of that file; acquiring waits for ever."""
    if package == "filelock":
        import filelock

        one = filelock.FileLock(path)
        return one.acquire, one.release
    if package == "portalocker":
        import portalocker

        # Its own way to wait for ever, which is not the default, is the kernel's.
        other = portalocker.Lock(path, flags=portalocker.LockFlags.EXCLUSIVE)
        return other.acquire, other.release
    import fasteners  # type: ignore[import-untyped]

    third = fasteners.InterProcessLock(path)
    return third.acquire, third.release


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    path = os.path.join(os.environ["TMPDIR"], "locked")
    acquire, release = lock_of(setup["package"], path)

    def pair() -> None:
        acquire()
        release()

    yield lambda count: {"pair": timed_pairs(pair, count)}


if __name__ == "__main__":
    main(opened)
