"""What a process keeps in stock, so that a fork or a new ID need not ask the leader.

A fork needs a VMID and an ID for the child before the child exists, and has no time for a round
trip. So a few *spare pairs* lie ready: a fresh VMID, and an ID of ours that the leader has
already moved to it. Taking one starts the making of another, in the background:

    GET_NEW_VMID -> a VMID -> an ID of our own (perhaps TRADE_ID_RANGES first)
                 -> CHANGE_ID_OWNER -> the pair is ready

Ranges are asked for once at a time, whoever wants them. A process that asks again and again uses
IDs up fast: it asks for twice as many each time, and gives back what it has used up with the same
message. When it has become calm, or IDs have become rare, it asks for single ranges again, and what
it has too much of goes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import Body, Effects, Progress, Then
from libos_ipc.errors import IpcError

__all__ = ["SPARE_PAIRS", "Provision"]

#: Pairs kept in stock. A fork takes one; a process that forks faster waits for the leader.
SPARE_PAIRS = 4
#: Ranges asked for at a time, at most.
MOST_RANGES = 16
#: Ranges given back with one message, at most.
MOST_GIVEN_BACK = 64
#: Seconds between askings: fewer are haste, more are calm.
HASTE_S = 0.02
CALM_S = 0.1

Ask: TypeAlias = Callable[[Code, tuple[object, ...], Then, float], Effects]


class Pool(Protocol):
    """What is needed of a process's own IDs."""

    batch: int
    asked: bool

    def new(self, now: float) -> int | None: ...
    def grant(self, start: int, end: int) -> None: ...
    def moved_away(self, id: int) -> None: ...
    def release(self, id: int, now: float) -> list[tuple[int, int]] | None: ...
    def surplus(self) -> list[tuple[int, int]]: ...


class Provision:
    """Spare pairs and the next range. `ask` sends a request to the leader."""

    __slots__ = (
        "_ask",
        "_asked_at",
        "_ids",
        "_unpaired",
        "coming",
        "exhausted",
        "failed",
        "pairs",
    )

    def __init__(self, ids: Pool, ask: Ask) -> None:
        self._ids = ids
        self._ask = ask
        #: pairs being made
        self.coming = 0
        self._asked_at = float("-inf")
        self._unpaired: deque[int] = deque()
        self.pairs: deque[tuple[int, int]] = deque()
        #: the leader's last word on ranges was that none is left
        self.exhausted = False
        #: … or could not be had
        self.failed: IpcError | None = None

    def top_up(self, now: float, want: int = SPARE_PAIRS) -> Effects:
        """Start making what is missing to `want` pairs."""
        effects: Effects = []
        # Counted beforehand: a leader that is ourselves answers at once, perhaps with nothing.
        for _ in range(want - len(self.pairs) - self.coming):
            self.coming += 1
            effects += self._ask(Code.GET_NEW_VMID, (), self._on_vmid, now)
        return effects

    @property
    def range_coming(self) -> bool:
        """Whether ranges have been asked for and have not come."""
        return self._ids.asked

    def want_range(self, now: float) -> Effects:
        """Ask for another range, or some, unless they are already on their way."""
        ids = self._ids
        if ids.asked:
            return []
        since, self._asked_at = now - self._asked_at, now
        if since < HASTE_S:
            ids.batch = min(2 * ids.batch, MOST_RANGES)
        elif since > CALM_S:
            ids.batch = 1
        ids.asked = True
        back = ids.surplus()
        with_it = tuple(back[:MOST_GIVEN_BACK])
        effects = self._ask(Code.TRADE_ID_RANGES, (ids.batch, with_it), self._on_ranges, now)
        return effects + self.give_back(back[MOST_GIVEN_BACK:], now)

    def give_back(self, ranges: Sequence[tuple[int, int]], now: float) -> Effects:
        """Return ranges to the leader."""
        effects: Effects = []
        for at in range(0, len(ranges), MOST_GIVEN_BACK):
            some = tuple(ranges[at : at + MOST_GIVEN_BACK])
            effects += self._ask(Code.TRADE_ID_RANGES, (0, some), lambda answer, now: [], now)
        return effects

    def on_tick(self, now: float) -> tuple[Effects, bool]:
        """Whoever was in haste and has become calm needs less. True if that may come yet."""
        if self._ids.batch == 1:
            return [], False
        if now - self._asked_at <= CALM_S:
            return [], True
        self._ids.batch = 1
        return self.give_back(self._ids.surplus(), now), False

    def _on_vmid(self, fields: Body | IpcError, now: float) -> Effects:
        if isinstance(fields, IpcError):
            return self._give_up(1)
        (vmid,) = fields
        assert isinstance(vmid, int)
        self._unpaired.append(vmid)
        return self._pair_up(now)

    def _pair_up(self, now: float) -> Effects:
        effects: Effects = []
        while self._unpaired:
            id = self._ids.new(now)
            if id is None:
                return effects + self.want_range(now)
            vmid = self._unpaired.popleft()
            moved = partial(self._on_moved, vmid, id)
            effects += self._ask(Code.CHANGE_ID_OWNER, (id, vmid), moved, now)
        return effects

    def _on_ranges(self, fields: Body | IpcError, now: float) -> Effects:
        ids = self._ids
        ids.asked = False
        self.failed = fields if isinstance(fields, IpcError) else None
        if isinstance(fields, IpcError):
            return self._give_up_unpaired()
        (granted,) = fields
        assert isinstance(granted, tuple)
        if len(granted) < ids.batch:
            ids.batch = 1
        self.exhausted = not granted
        if self.exhausted:
            return self._give_up_unpaired()
        for start, end in granted:
            ids.grant(start, end)
        return [*self._pair_up(now), Progress(0)]

    def _on_moved(self, vmid: int, id: int, fields: Body | IpcError, now: float) -> Effects:
        if isinstance(fields, IpcError):
            return self._give_up(1)  # moved or not, nobody knows: the ID is never used again
        if fields[0] != 0:
            return self._take_back(id, now) + self._give_up(1)
        self._ids.moved_away(id)
        self.coming -= 1
        self.pairs.append((vmid, id))
        return [Progress(0)]

    def _take_back(self, id: int, now: float) -> Effects:
        """The leader did not move this ID: it is still one of ours, and free."""
        return self.give_back(self._ids.release(id, now) or (), now)

    def _give_up(self, pairs: int) -> Effects:
        """No error reaches anybody from here: a later call tries again, or meets it itself."""
        self.coming -= pairs
        return [Progress(0)]

    def _give_up_unpaired(self) -> Effects:
        """There is no ID for the VMIDs that wait for one."""
        waiting = len(self._unpaired)
        self._unpaired.clear()
        return self._give_up(waiting)
