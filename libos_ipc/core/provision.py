"""What a process keeps in stock, so that a fork or a new ID need not ask the leader.

A fork needs a VMID and an ID for the child before the child exists, and has no time for a round
trip. So a few *spare pairs* lie ready: a fresh VMID, and an ID of ours that the leader has
already moved to it. Taking one starts the making of another, in the background:

    GET_NEW_VMID -> a VMID -> an ID of our own (perhaps ALLOC_ID_RANGE first)
                 -> CHANGE_ID_OWNER -> the pair is ready

At most one range is on its way at a time, whoever wants it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import Body, Effects, Progress, Then
from libos_ipc.errors import IpcError

__all__ = ["SPARE_PAIRS", "Provision"]

#: Pairs kept in stock. A fork takes one; a process that forks faster waits for the leader.
SPARE_PAIRS = 4

Ask: TypeAlias = Callable[[Code, tuple[object, ...], Then, float], Effects]


class Pool(Protocol):
    """What is needed of a process's own IDs."""

    def new(self, now: float) -> int | None: ...
    def grant(self, start: int, end: int) -> None: ...
    def moved_away(self, id: int) -> None: ...
    def release(self, id: int, now: float) -> list[tuple[int, int]] | None: ...


class Provision:
    """Spare pairs and the next range. `ask` sends a request to the leader."""

    __slots__ = (
        "_ask",
        "_ids",
        "_unpaired",
        "coming",
        "exhausted",
        "failed",
        "pairs",
        "range_coming",
    )

    def __init__(self, ids: Pool, ask: Ask) -> None:
        self._ids = ids
        self._ask = ask
        #: pairs being made
        self.coming = 0
        #: a range has been asked for and has not come
        self.range_coming = False
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

    def want_range(self, now: float) -> Effects:
        """Ask for another range, unless one is already on its way."""
        if self.range_coming:
            return []
        self.range_coming = True
        return self._ask(Code.ALLOC_ID_RANGE, (), self._on_range, now)

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

    def _on_range(self, fields: Body | IpcError, now: float) -> Effects:
        self.range_coming = False
        self.failed = fields if isinstance(fields, IpcError) else None
        if isinstance(fields, IpcError):
            return self._give_up_unpaired()
        start, end = fields
        assert isinstance(start, int)
        assert isinstance(end, int)
        self.exhausted = start == 0
        if self.exhausted:
            return self._give_up_unpaired()
        self._ids.grant(start, end)
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
        effects: Effects = []
        for spent in self._ids.release(id, now) or ():
            effects += self._ask(Code.RELEASE_ID_RANGE, spent, lambda answer, now: [], now)
        return effects

    def _give_up(self, pairs: int) -> Effects:
        """No error reaches anybody from here: a later call tries again, or meets it itself."""
        self.coming -= pairs
        return [Progress(0)]

    def _give_up_unpaired(self) -> Effects:
        """There is no ID for the VMIDs that wait for one."""
        waiting = len(self._unpaired)
        self._unpaired.clear()
        return self._give_up(waiting)
