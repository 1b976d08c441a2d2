"""The processes of the demonstration: a founder that hands out work, and forked workers.

    worker                                     founder
      |---- TAKE ------------------------------> |  a share of the files, once there is one
      |  <----------------------------------Share |  or an empty one: there are no more
      |---- COUNTED file, words ----------------> |  into the books; only then the next file
      |  <-------------------------------------- |
      |---- COUNTED file, words ----------------> |  the middle of a share: kill -9
      x                                           |  wait() tells of its end: the rest waits again

Both are requests to the founder. Its handlers run on a thread for each worker, since one that
asks for a share may have to wait for another worker's end.
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

TAKE, COUNTED = 64, 65

#: Seconds between two looks at how far the work is, while no worker ends.
LOOK_S = 0.05


class Share(msgspec.Struct, array_like=True, frozen=True):
    """Files to count, by their place in the list that all workers have inherited. Empty: none."""

    first: int
    stop: int


class Counted(msgspec.Struct, array_like=True, frozen=True):
    """The words of one file."""

    file: int
    words: int


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
        # The first handler lets all messages in: it is the one that needs no other before it.
        @self._group.on(COUNTED, type=Counted, threads=self.workers)
        def counted(result: Counted, message: Message) -> None:
            self._count_request()
            if self.job.counted(message.src, result.file, result.words):
                self._strike(message.src)

        @self._group.on(TAKE)
        def take(message: Message) -> Share:
            self._count_request()
            share = self.job.take(message.src)
            return Share(share.start, share.stop)

    def _count_request(self) -> None:
        with self._lock:
            self.requests += 1

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


def _take(group: Group) -> range:
    share = group.request(group.parent_vmid, TAKE, type=Share)
    return range(share.first, share.stop)


def work(group: Group, files: list[Path]) -> None:
    """A worker: take shares from the founder and count them until there are none left."""
    founder = group.parent_vmid
    try:
        while numbers := _take(group):
            for file in numbers:
                group.request(founder, COUNTED, Counted(file, count(files[file])))
    except PeerDied:
        sys.exit(1)  # the founder has ended: nobody wants to know
