"""The clock, the order of events, and the record of what happened.

Nothing happens but events, one at a time, in the order of their virtual times; equal times go
in the order of entry. An event may belong to a process: it is put off while that process is
stopped, and dropped when it is dead. All chance comes from one generator, so the seed decides
everything. After each event the machines that it touched are checked.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from libos_ipc.core.leader import Leader

from .batons import BatonsTwin, Word
from .deposits import DepositsTwin, Memory
from .history import History, Violation
from .kernel import Kernel, OsProcess
from .locks import SimSlots
from .network import Network

if TYPE_CHECKING:
    from .knobs import Knobs
    from .node import SimNode

__all__ = ["World"]

#: Events of one seed; more would mean that the group does not come to rest.
STEPS_AT_MOST = 60_000
#: Virtual seconds that all may take to come to rest when the faults have ended.
REST_WITHIN_S = 400.0


class World:
    """One simulated host with one group."""

    def __init__(self, seed: int, knobs: Knobs, rng: random.Random) -> None:
        self.seed = seed
        self.knobs = knobs
        self.rng = rng
        self.dice = random.Random(seed)  # for what changes little else
        self.now = 0.0
        self.steps = 0
        self.trace: list[tuple[object, ...]] = []
        #: whether the network may lose, repeat and report at will
        self.faulty = True
        #: members by VMID, as long as their process lives and they have not left
        self.nodes: dict[int, SimNode] = {}
        #: who has removed its file from the directory: whoever sees its end sees that it left
        self.left: set[int] = set()
        self.leader: SimNode | None = None
        self.slots = SimSlots()
        #: by number, in memory that outlives processes
        self.batons: dict[int, Word] = {}
        self.deposits: Memory = {}
        self.history = History(self)
        self.kernel = Kernel(self)
        self.network = Network(self)
        self._events: list[tuple[float, int, OsProcess | None, Callable[[], None]]] = []
        self._entered = 0
        self._touched: dict[SimNode, None] = {}

    def new_leader(self) -> Leader:
        """A leader's machine that knows nothing yet."""
        knobs = self.knobs
        leader = Leader(
            id_max=knobs.id_max,
            range_size=knobs.range_size,
            quarantine_s=knobs.quarantine_s,
            first_vmid=1 if knobs.embedded else 2,
            memory=self.slots,
            read_remains=lambda vmid: lambda id: self.history.sync.remains(vmid, id),
            batons=BatonsTwin(self.batons),
            deposits=DepositsTwin(
                self.deposits,
                lambda vmid, id: self.history.sync.remains(vmid, id),  # noqa: PLW0108 - it comes later
            ),
        )
        leader.sync.moves = 4 if knobs.put else 1
        return leader

    # ---- events

    def at(
        self, delay_s: float, action: Callable[[], None], process: OsProcess | None = None
    ) -> None:
        """Let `action` happen after `delay_s` seconds, if `process` lives and runs then."""
        self._entered += 1
        heapq.heappush(self._events, (self.now + delay_s, self._entered, process, action))

    def soon(
        self, most_s: float, action: Callable[[], None], process: OsProcess | None = None
    ) -> None:
        """The same after a random time of at most `most_s` seconds."""
        self.at(self.rng.random() * most_s, action, process)

    def touch(self, node: SimNode) -> None:
        """The machines of this node have been at work: check them."""
        self._touched[node] = None

    def step(self) -> bool:
        """The next event. False if there is none."""
        if not self._events:
            return False
        time, entered, process, action = heapq.heappop(self._events)
        if process is not None:
            if not process.alive:
                return True
            if process.stopped_until > time:
                heapq.heappush(self._events, (process.stopped_until, entered, process, action))
                return True
        self.now = time
        self.steps += 1
        action()
        if self._touched:
            for node in self._touched:
                if not node.dead:
                    node.check()
            self._touched.clear()
        return True

    def go_on(self, process: OsProcess) -> None:
        """A process that is stopped runs from now on; what has waited for that happens now."""
        until, process.stopped_until = process.stopped_until, 0.0
        if until > self.now:
            for place, (time, entered, whose, action) in enumerate(self._events):
                if whose is process and time == until:
                    self._events[place] = self.now, entered, whose, action
            heapq.heapify(self._events)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Step until `done`, or until nothing is left to happen."""
        while not done() and self.step():
            self._bound()

    def come_to_rest(self) -> None:
        """Step until nothing is left to happen, which must not take for ever."""
        begun = self.now
        while self.step():
            self._bound()
            if self.now > begun + REST_WITHIN_S:
                raise Violation(f"no rest within {REST_WITHIN_S} s after the faults ended")

    def _bound(self) -> None:
        if self.steps > STEPS_AT_MOST:
            raise Violation(f"no rest after {self.steps} steps")

    # ---- the record

    def say(self, *what: object) -> None:
        """Put something on record."""
        self.trace.append((self.now, *what))

    def trace_hash(self) -> str:
        """Equal for equal traces."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()

    def lines(self, last: int | None = None) -> list[str]:
        """The trace, or its last so many entries, one line each."""
        entries = self.trace if last is None else self.trace[-last:]
        return [
            f"{entry[0]:12.6f}  {entry[1]!s:<10} {' '.join(map(str, entry[2:]))}"
            for entry in entries
        ]
