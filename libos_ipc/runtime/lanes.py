"""The lanes of one process: shared memory to each of its peers, and the bell that they ring.

A lane's memory and the bells are memfds, found by their numbers: who is offered one opens it
through `/proc`, as the kernel lets processes of one user do, and checks that it is sealed, so
that nobody can take it away. What was opened is mapped and closed again; of all the lanes of a
process only its own bell keeps a descriptor.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from libos_ipc._native import BELL_LINES, PORTER, Clerk, Doorbell, Lane, Malformed, Shared

__all__ = ["LANE_BYTES", "Arrival", "Lanes"]

#: Bytes of a bell's memory, and of a lane's: a page for both channels' counts, and their data, of
#: which little is used, and costs anything, until messages are large or many.
BELL_BYTES = 4096
LANE_BYTES = 4096 + 2 * (1 << 20)

#: Bytes that the windows to all peers together may have, unless there are very many peers; and what
#: each may have at least, and at most.
POOL_BYTES = 1 << 26
_LEAST_WINDOW = 1 << 16
_MOST_WINDOW = 1 << 20

#: number, acked, code, seq, payload
Arrival = tuple[int, int, int, int, bytes | int]


class _End:
    """Our end of one lane."""

    __slots__ = ("kept", "lane", "line", "memory", "peer", "reading")

    def __init__(self, peer: int, line: int, memory: Shared, *, first: bool) -> None:
        self.peer = peer
        #: of our bell, rung by the peer
        self.line = line
        #: with a descriptor as long as the peer may want to open it
        self.memory = memory
        self.lane = Lane(memory, first)
        self.reading = False
        #: what was received and put back
        self.kept: Arrival | None = None

    def close(self) -> None:
        self.lane.close()
        self.memory.close()


class Lanes:
    """By peer, and by line of our bell. Calls exclude each other by the session's lock, but for
    those that read (`lines`, `receive`): one thread at a time. OSError where the system refuses."""

    def __init__(self, spin: float) -> None:
        self._memory = Shared(BELL_BYTES)
        self.bell = Doorbell(self._memory, spin)
        #: answers what needs no interpreter; its thread is started and stopped with the porter
        self.clerk = Clerk(self._memory, spin)
        self._ends: dict[int, _End] = {}
        self._at: dict[int, _End] = {}
        self._most = _MOST_WINDOW

    @property
    def bell_fd(self) -> int:
        """The descriptor by which peers find our bell."""
        return self._memory.fileno()

    # ---- coming and going; under the session's lock

    def offer(self, peer: int) -> tuple[int, int]:
        """Make the memory of a lane to `peer`: its descriptor, and the peer's line of our bell."""
        end = _End(peer, self._free_line(), Shared(LANE_BYTES), first=True)
        self._enter(end)
        return end.memory.fileno(), end.line

    def take(self, peer: int, os_pid: int, memory: int, bell: int, line: int) -> int:
        """Map what `peer`, which is this process, has offered: its line of our bell. No lane to it
        is there."""
        end = _End(peer, self._free_line(), _find(os_pid, memory, LANE_BYTES), first=False)
        _reach(end.lane, os_pid, bell, line)
        self._enter(end)
        return end.line

    def reach(self, peer: int, os_pid: int, bell: int, line: int) -> None:
        """The offer was taken: map the peer's bell."""
        end = self._ends[peer]
        end.memory.close()
        _reach(end.lane, os_pid, bell, line)

    def read(self, peer: int) -> None:
        """Read what `peer` writes, and has written."""
        end = self._ends[peer]
        end.reading = True
        self.bell.again(end.line)
        self.bell.nudge(PORTER)

    def at(self, peer: int) -> tuple[int, Lane]:
        """The line that `peer` rings, and its lane. There is one."""
        end = self._ends[peer]
        return end.line, end.lane

    def drop(self, peer: int) -> None:
        """The lane to `peer` is not needed any more, if there is one."""
        end = self._ends.get(peer)
        if end is not None:  # each step can be done again, if a signal handler raises behind it
            self._at.pop(end.line, None)
            self.clerk.leave(end.line)
            end.close()
            del self._ends[peer]
            self._share_pool()

    def settle(self, idle: bool) -> None:
        """Give back what the last large messages needed, if it is not needed any more; and see to
        what lies unread, there or here: another process may have taken the ring away. Any thread;
        now and then, and when everything is `idle`."""
        for end in list(self._ends.values()):
            end.lane.settle(idle)
            if end.lane.remind():
                self.bell.again(end.line)
                self.bell.nudge(PORTER)

    def closing(self) -> list[Callable[[], None]]:
        """What leaves them to the parent, in the thread of a forked child that has forked."""
        return [end.lane.close for end in self._ends.values()]

    def close(self) -> None:
        """Give everything back. In a forked child after that."""
        for peer in list(self._ends):
            self.drop(peer)
        self._memory.close()

    def _enter(self, end: _End) -> None:
        self._ends[end.peer] = self._at[end.line] = end
        self.clerk.serve(end.line, end.lane)
        end.lane.most = self._most
        self._share_pool()

    def _share_pool(self) -> None:
        """Let the windows be as large as they may be together."""
        share = POOL_BYTES // max(1, len(self._ends))
        most = min(_MOST_WINDOW, max(_LEAST_WINDOW, 1 << (share.bit_length() - 1)))
        if most != self._most:
            self._most = most
            for end in self._ends.values():
                end.lane.most = most

    def _free_line(self) -> int:
        for line in range(BELL_LINES):
            if line not in self._at:
                return line
        raise OSError(errno.ENOSPC, f"{BELL_LINES} lanes are all that a process may have")

    # ---- writing; under the session's lock

    def write(
        self, peer: int, number: int, acked: int, code: int, seq: int, payload: bytes | memoryview
    ) -> None:
        """Send a message; what there is no room for goes when there is."""
        end = self._ends.get(peer)
        if end is not None:  # otherwise the peer's end was told just now
            self._go_on(end, end.lane.send(number, acked, code, seq, payload))

    @contextmanager
    def quietly(self, peer: int) -> Iterator[None]:
        """What is sent to `peer` by its lane in here wakes nobody: it is read with what comes next,
        or when we `ring`."""
        end = self._ends.get(peer)
        if end is not None:
            end.lane.quiet = True
        try:
            yield
        finally:
            if end is not None:
                end.lane.quiet = False

    def ring(self, peer: int) -> None:
        """Have `peer` read what was sent to it, if there is a lane."""
        end = self._ends.get(peer)
        if end is not None:
            end.lane.ring()

    def _go_on(self, end: _End, more: bool) -> None:
        """The rest of what waits there is for whoever reads next, if it can go at all."""
        if more:
            self.bell.again(end.line)
            self.bell.nudge(PORTER)

    # ---- reading

    def lines(self) -> Iterator[int]:
        """Those that somebody may have rung."""
        return iter(list(self._at))

    def line_of(self, peer: int) -> int | None:
        """The line that `peer` rings, if there is a lane."""
        end = self._ends.get(peer)
        return None if end is None else end.line

    def reads(self, peer: int) -> bool:
        """Whether all that `peer` says comes by a lane: what came before that has been read."""
        end = self._ends.get(peer)
        return end is not None and end.reading

    def peer_at(self, line: int) -> int:
        """Who rings this line, 0 for nobody."""
        end = self._at.get(line)
        return 0 if end is None else end.peer

    def receive(self, line: int, max_message: int) -> Arrival | None:
        """The next message at this line; None when there is none now. What waits for room on the
        way out goes, if there is some. Malformed once, for what cannot be read: nothing is read
        from there any more."""
        end = self._at.get(line)
        if end is None:
            return None
        try:
            if end.lane.waits:
                self._go_on(end, end.lane.flush())
            if end.kept is None:
                return end.lane.receive(max_message) if end.reading else None
        except Malformed:
            raise
        except ValueError:
            return None  # closed in this moment: its peer is gone
        kept, end.kept = end.kept, None
        return kept

    def put_back(self, line: int, arrival: Arrival) -> None:
        """That could not be dealt with: `receive` is to give it again."""
        end = self._at.get(line)
        if end is not None:
            end.kept = arrival


def _find(os_pid: int, fd: int, size: int) -> Shared:
    """The memory behind a descriptor of another process."""
    return Shared(size, f"/proc/{os_pid}/fd/{fd}")


def _reach(lane: Lane, os_pid: int, bell: int, line: int) -> None:
    if not 0 <= line < BELL_LINES:
        raise OSError(errno.EINVAL, f"no bell has a line {line}")
    lane.reach(_find(os_pid, bell, BELL_BYTES), line)
