"""The processes of the demonstration: a founder that hands out work, and forked workers.

    worker                                founder
      |---- Idle -------------------------> |  a share of the files, once there is one
      |  <--------------------------- Share |  or an empty one: there are no more
      |---- Counted file, words ----------> |  into the books; only then the next file
      |  <--------------------------- Share |  (empty)
      |---- Counted file, words ----------> |  the middle of a share: kill -9
      x                                     |  wait() tells of its end: the rest waits again

All of these are requests of one code, so that one handler lets them all in. It runs on a thread
for each worker, since one that asks for a share may have to wait for another worker's end.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from libos_ipc import Child, ExitStatus, Group, IpcError, Message, PeerDied, Timeout
from libos_ipc.cli.demo.files import count
from libos_ipc.cli.demo.job import Job

__all__ = ["Crew", "End"]

#: The code of the requests.
WORK = 64

#: Seconds between two looks at how far the work is, while no worker ends.
LOOK_S = 0.05


class Idle(msgspec.Struct, array_like=True, frozen=True, tag="idle"):
    """A worker has nothing to do."""


class Counted(msgspec.Struct, array_like=True, frozen=True, tag="counted"):
    """A worker has counted the words of one file."""

    file: int
    words: int


class Share(msgspec.Struct, array_like=True, frozen=True):
    """Files to count, by their place in the list that all workers have inherited."""

    first: int = 0
    stop: int = 0


@dataclass(frozen=True)
class End:
    """A worker that did not end by itself: how, and how many of its files others have done."""

    child: Child
    status: ExitStatus
    retried: int


class Crew:
    """The founder's side. One thread calls `run`, once."""

    def __init__(self, group: Group, files: list[Path], workers: int) -> None:
        self.workers = workers
        self.job = Job(len(files), workers)
        self.requests = 0
        self.ends: list[End] = []
        self._group = group
        self._files = files
        self._children: dict[int, Child] = {}
        self._to_be_killed = workers > 1
        self._lock = threading.Lock()

    def run(self, look: Callable[[Job, list[End]], object]) -> None:
        """Have all files counted. `look` is called every now and then, with how far it is, and
        may raise to end it.

        No worker is left when this returns or raises. IpcError if all of them ended too early.
        """
        try:
            self._hire()
            self._listen()
            self._attend(look)
        finally:
            self._dismiss()
        if self.job.left:
            raise IpcError(f"all workers ended with {self.job.left} files left to count")

    def _hire(self) -> None:
        for _ in range(self.workers):
            child = self._group.spawn(work, self._group, self._files)
            self._children[child.vmid] = child

    def _listen(self) -> None:
        @self._group.on(WORK, type=Idle | Counted, threads=self.workers)
        def work(said: Idle | Counted, message: Message) -> Share:
            with self._lock:
                self.requests += 1
            if isinstance(said, Idle):
                share = self.job.take(message.src)
                return Share(share.start, share.stop)
            if self.job.counted(message.src, said.file, said.words):
                self._strike(message.src)
            return Share()

    def _strike(self, vmid: int) -> None:
        """Kill one worker, once: in the middle of a share, after a third of the work."""
        with self._lock:
            if not self._to_be_killed or self.job.left * 3 > len(self._files) * 2:
                return
            self._to_be_killed = False
        self._children[vmid].kill(signal.SIGKILL)

    def _attend(self, look: Callable[[Job, list[End]], object]) -> None:
        """Wait for all workers to end, and give what the killed one had to the others."""
        running = {child.pid: child for child in self._children.values()}
        while running:
            look(self.job, self.ends)
            try:
                status = self._group.wait(timeout=LOOK_S)
            except Timeout:
                continue
            child = running.pop(status.pid)
            retried = self.job.lost(child.vmid)
            if status.code != 0:
                self.ends.append(End(child, status, retried))
        look(self.job, self.ends)

    def _dismiss(self) -> None:
        self.job.give_up()
        for child in self._children.values():
            try:
                child.kill(signal.SIGKILL)
                child.wait()
            except (ProcessLookupError, ChildProcessError):
                continue  # it has ended, and was waited for


def work(group: Group, files: list[Path]) -> None:
    """A worker: take shares from the founder and count them until there are none left."""

    def tell(said: Idle | Counted) -> range:
        share = group.request(group.parent_vmid, WORK, said, type=Share)
        return range(share.first, share.stop)

    try:
        while share := tell(Idle()):
            for file in share:
                tell(Counted(file, count(files[file])))
    except PeerDied:
        sys.exit(1)  # the founder has ended: nobody wants to know
