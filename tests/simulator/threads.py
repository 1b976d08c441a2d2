"""Threads of a program, as generators, and the tickets that they wait for.

A thread runs until it has to wait and then yields what for. A thread that waits for a *ticket*
is woken when that is settled, one that waits for *progress* is looked at whenever the machine
says Progress, as with the runtime's condition variable: a machine that forgets to say it leaves
the thread waiting, and the group does not come to rest with nobody waiting. Between being woken
and running some time passes, in which others run; so the condition is tested once more then.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from libos_ipc.core.vocabulary import Body
from libos_ipc.errors import IpcError

if TYPE_CHECKING:
    from .node import SimNode

__all__ = ["Body", "Running", "Thread", "Ticket", "Wait", "never"]


class Wait(NamedTuple):
    """What a thread waits for. The yield gives False if the time is over first."""

    ready: Callable[[], bool]
    timeout_s: float | None = None
    ticket: Ticket | None = None


Running: TypeAlias = Generator[Wait, bool, Any]


def never() -> bool:
    """The condition of those who only sleep."""
    return False


class Ticket:
    """A request that a thread waits for: settled once, or withdrawn."""

    __slots__ = ("code", "dst", "error", "node", "payload", "state", "then", "thread", "token")

    def __init__(self, node: SimNode, dst: int, code: int, token: int) -> None:
        self.node = node
        self.dst = dst
        self.code = code
        #: names the request across the group
        self.token = token
        self.state = "open"
        self.payload: Body = b""
        self.error: IpcError | None = None
        self.thread: Thread | None = None
        #: what follows at once, whoever still waits
        self.then: Callable[[], None] | None = None

    def resolve(self, payload: Body) -> None:
        self.node.world.history.on_resolved(self, payload)
        self.payload = payload
        self._settle("resolved")

    def fail(self, error: IpcError) -> None:
        self.node.world.history.on_failed(self, error)
        self.error = error
        self._settle("failed")

    def settled(self) -> bool:
        return self.state != "open"

    def _settle(self, state: str) -> None:
        self.state = state
        if self.then is not None:
            self.then()
        if self.thread is not None:
            self.thread.notify()


class Thread:
    """One running generator of a node."""

    __slots__ = ("_generator", "_notified", "_turn", "_wait", "name", "node")

    def __init__(self, node: SimNode, name: str, generator: Running) -> None:
        self.node = node
        self.name = name
        self._generator = generator
        self._wait: Wait | None = None
        self._turn = 0  # counts the waits: what belongs to an earlier one is void
        self._notified = False
        node.program.threads[self] = None

    def run(self, value: bool | None = None) -> None:
        """Go on until it waits or ends."""
        node = self.node
        if node.dead:
            return
        self._wait = None
        self._turn += 1
        try:
            wait = next(self._generator) if value is None else self._generator.send(value)
        except StopIteration:
            node.program.threads.pop(self, None)
            return
        self._wait = wait
        self._notified = False
        if wait.ticket is not None:
            wait.ticket.thread = self
        if wait.timeout_s is not None:
            turn = self._turn
            node.world.at(wait.timeout_s, lambda: self._time_out(turn), node.process)
        if wait.ready():
            self.notify()

    def on_progress(self) -> None:
        """Look whether what it waits for is there."""
        if self._wait is not None and self._wait.ticket is None and self._wait.ready():
            self.notify()

    def notify(self) -> None:
        """It will run soon."""
        if not self._notified:
            self._notified = True
            turn, world = self._turn, self.node.world
            world.soon(world.knobs.wake_s, lambda: self._wake(turn), self.node.process)

    def _wake(self, turn: int) -> None:
        if turn != self._turn or self._wait is None or self.node.dead:
            return
        self._notified = False
        if self._wait.ready():
            self.run(True)

    def _time_out(self, turn: int) -> None:
        if turn == self._turn and self._wait is not None and not self.node.dead:
            self.run(self._wait.ready())
