"""A checker of histories: is there an order of the operations that explains all that was seen?

A history is what the users of one register (a shared value) called, when, and what they got. It is
*linearizable* if every operation can be thought to take effect at one moment between its call and
its return, so that a register which is used one operation at a time would have given the same
answers. An operation that never returned, since its process was killed, took effect at any moment
after its call, or never.

The search is that of Wing and Gong, with the memory of Lowe: it takes one operation after the other
into the order, whichever was called before the first return among those that are left, and goes
back where none fits; a set of operations taken, with a value, is never tried twice. An operation
that never returned is taken only where the next one sees what it has put: otherwise it may as well
not have taken effect.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

__all__ = ["NEVER", "Operation", "explain", "is_linearizable"]

#: The return of an operation that had none.
NEVER = float("inf")

READ, WRITE = "read", "write"


class Operation(NamedTuple):
    """`kind` is "read" (it got `got`), "write" (of `put`), or "change" (it got the one and put the
    other). Of an operation that never returned, `got` may be None: nobody knows."""

    kind: str
    got: Any
    put: Any
    called: float
    returned: float
    by: str = ""


def is_linearizable(history: Iterable[Operation], first: Hashable) -> bool:
    """Whether a register that held `first` explains this history."""
    return explain(history, first) is None


def explain(history: Iterable[Operation], first: Hashable) -> str | None:
    """None if the history is linearizable, else how far an order can be found, and what is left."""
    search = _Search(history, first)
    return None if search.succeeds() else search.complaint()


class _State(NamedTuple):
    """What has been taken: all of the finished operations before `low`, those behind it whose bits
    are set in `more`, and of the others, those whose bits are set in `pending`."""

    low: int
    more: int
    pending: int
    value: Hashable
    owed: bool  #: the next operation must see this value


class _Search:
    """Finished operations are numbered by their calls, pending ones from -1 downwards."""

    def __init__(self, history: Iterable[Operation], first: Hashable) -> None:
        by_call = sorted(history, key=lambda one: one.called)
        self.finished = [one for one in by_call if one.returned != NEVER]
        seen = {one.got for one in by_call}
        self.pending = [
            one for one in by_call if one.returned == NEVER and one.kind != READ and one.put in seen
        ]
        self.first = _State(0, 0, 0, first, False)
        self.furthest: list[int] = []

    def succeeds(self) -> bool:
        """Depth first, with a stack of its own: histories are longer than Python's."""
        seen = {self.first}
        order: list[int] = []
        stack = [(self.first, iter(self.candidates(self.first)))]
        while stack:
            state, candidates = stack[-1]
            if state.low == len(self.finished):
                return True
            for number in candidates:
                after = self.after(state, number)
                if after is not None and after not in seen:
                    seen.add(after)
                    order.append(number)
                    stack.append((after, iter(self.candidates(after))))
                    break
            else:
                if len(order) > len(self.furthest):
                    self.furthest = list(order)
                stack.pop()
                del order[-1:]
        return False

    def candidates(self, state: _State) -> list[int]:
        """Operations that may come next: called before any that is left has returned."""
        found = []
        first_return = NEVER
        for number in range(state.low, len(self.finished)):
            one = self.finished[number]
            if one.called > first_return:
                break
            if not state.more >> (number - state.low) & 1:
                found.append(number)
                first_return = min(first_return, one.returned)
        found.sort(key=lambda number: self.finished[number].returned)
        for number, one in enumerate(self.pending):
            if one.called <= first_return and not state.pending >> number & 1:
                found.append(-1 - number)
        return found

    def after(self, state: _State, number: int) -> _State | None:
        """The state when this operation has been taken, None if it does not fit."""
        one = self.operation(number)
        low, more, pending, value, owed = state
        if one.got != value and (owed or not _is_blind(one)):
            return None
        value = value if one.kind == READ else one.put
        if number < 0:
            return _State(low, more, pending | 1 << (-1 - number), value, True)
        more |= 1 << (number - low)
        while more & 1:
            low, more = low + 1, more >> 1
        return _State(low, more, pending, value, False)

    def operation(self, number: int) -> Operation:
        return self.finished[number] if number >= 0 else self.pending[-1 - number]

    def complaint(self) -> str:
        """For people."""
        state = self.first
        for number in self.furthest:
            state = self.after(state, number) or state
        before = "\n".join(f"  {self.operation(number)}" for number in self.furthest[-8:])
        left = "\n".join(f"  {self.operation(number)}" for number in self.candidates(state))
        return f"after\n{before}\nthe value is {state.value!r}; none of these comes next:\n{left}"


def _is_blind(one: Operation) -> bool:
    """Whether it may be done to any value."""
    return one.kind == WRITE or (one.got is None and one.returned == NEVER)
