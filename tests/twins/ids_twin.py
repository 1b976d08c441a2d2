"""IDs one by one in dicts: the leader's space, and a referee of one process's own IDs."""

from __future__ import annotations

from typing import NamedTuple

from libos_ipc.errors import InvalidRange, PermissionDenied


class Resting(NamedTuple):
    """A released range, or the rest of one (then nobody released it)."""

    since: float
    start: int
    end: int
    former: int


class IdSpaceTwin:
    """Does what `IdSpace` does, by looking at every ID every time."""

    def __init__(
        self, id_min: int, id_max: int, range_size: int, quarantine_s: float, expire_at_most: int
    ) -> None:
        self.all_ids = range(id_min, id_max + 1)
        self.range_size = range_size
        self.quarantine_s = quarantine_s
        self.expire_at_most = expire_at_most
        self.owner: dict[int, int] = {}
        self.ranges: set[tuple[int, int]] = set()
        self.resting: list[Resting] = []
        self.cursor = id_min

    def alloc_range(self, owner: int, now: float) -> tuple[int, int] | None:
        self.expire(now)
        resting = {id for r in self.resting for id in range(r.start, r.end + 1)}
        gaps = [id for id in self.all_ids if id not in self.owner and id not in resting]
        if gaps:
            start = min([id for id in gaps if id >= self.cursor] or gaps)
            end = start
            while end + 1 in gaps and end + 1 < start + self.range_size:
                end += 1
        elif self.resting:
            oldest = min(self.resting)
            start, end = oldest.start, min(oldest.end, oldest.start + self.range_size - 1)
        else:
            return None
        self.take(start, end, owner)
        return start, end

    def take(self, start: int, end: int, owner: int) -> None:
        ids = range(start, end + 1)
        if not ids or any(id in self.owner or id not in self.all_ids for id in ids):
            raise InvalidRange("no")
        for old in list(self.resting):
            if old.start <= end and start <= old.end:
                self.resting.remove(old)
                for rest in ((old.start, start - 1), (end + 1, old.end)):
                    if rest[0] <= rest[1]:
                        self.resting.append(Resting(old.since, *rest, 0))
        self.own(start, end, owner)
        self.cursor = end + 1

    def release_range(self, start: int, end: int, owner: int, now: float) -> None:
        if (start, end) in self.ranges and self.owner[start] == owner:
            self.expire(now)
            self.rest(start, end, now)
        elif not any(
            (r.start, r.end, r.former) == (start, end, owner) and r.since + self.quarantine_s > now
            for r in self.resting
        ):
            raise InvalidRange("no")

    def release_owner(self, owner: int, now: float) -> list[tuple[int, int]]:
        ranges = self.ranges_of(owner)
        if ranges:
            self.expire(now)
        for start, end in ranges:
            self.rest(start, end, now)
        return ranges

    def move(self, id: int, new_owner: int, *, by: int | None = None, now: float) -> None:
        owner = self.owner_of(id)
        if not owner:
            raise InvalidRange("no")
        if owner == new_owner:
            return
        if by not in (None, owner):
            raise PermissionDenied("no")
        self.expire(now)
        ((start, end),) = [r for r in self.ranges if r[0] <= id <= r[1]]
        self.ranges.remove((start, end))
        for piece in ((start, id - 1, owner), (id, id, new_owner), (id + 1, end, owner)):
            if piece[0] <= piece[1]:
                self.own(*piece)

    def owner_of(self, id: int) -> int:
        return self.owner.get(id, 0)

    def ranges_of(self, owner: int) -> list[tuple[int, int]]:
        return sorted(r for r in self.ranges if self.owner[r[0]] == owner)

    def own(self, start: int, end: int, owner: int) -> None:
        self.ranges.add((start, end))
        for id in range(start, end + 1):
            self.owner[id] = owner

    def rest(self, start: int, end: int, now: float) -> None:
        self.ranges.remove((start, end))
        self.resting.append(Resting(now, start, end, self.owner[start]))
        for id in range(start, end + 1):
            del self.owner[id]

    def expire(self, now: float) -> None:
        over = sorted(r for r in self.resting if r.since + self.quarantine_s <= now)
        for old in over[: self.expire_at_most]:
            self.resting.remove(old)


class Referee:
    """Watches one `LocalIds`: was this answer allowed?

    `state` of each ID is "fresh", "live", or the time of its release.
    """

    def __init__(self, quarantine_s: float, reserve: int) -> None:
        self.quarantine_s = quarantine_s
        self.reserve = reserve
        self.ranges: set[tuple[int, int]] = set()
        self.state: dict[int, str | float] = {}
        self.current: tuple[int, int] | None = None
        self.last_fresh = 0
        self.granted = 1

    def on_grant(self, start: int, end: int) -> None:
        self.ranges.add((start, end))
        self.state |= dict.fromkeys(range(start, end + 1), "fresh")
        self.granted = end - start + 1

    def on_new(self, got: int | None, now: float) -> None:
        resting = {id: since for id, since in self.state.items() if isinstance(since, float)}
        rested = [id for id, since in resting.items() if since + self.quarantine_s <= now]
        in_current = [id for id in self.ids(self.current) if self.state[id] == "fresh"]
        if in_current:
            assert got == min(in_current)
        elif rested:
            assert got is not None
            assert resting[got] == min(resting.values())
        elif self.fresh():
            assert got is not None
            self.current = self.around(got)
            assert got == self.current[0]
            assert set(self.states(self.current)) == {"fresh"}
        else:
            assert got is None
        if got is not None:
            if self.state[got] == "fresh":
                self.last_fresh = got
            self.state[got] = "live"

    def on_release(self, id: int, now: float, back: list[tuple[int, int]]) -> None:
        assert self.state[id] == "live"
        self.state[id] = now
        has_ended = self.is_idle(self.around(id))
        assert has_ended or not back
        for given in back:
            assert self.is_idle(given) or self.is_unopened(given)
            assert self.is_idle(given) or self.reserve < len(self.unopened())
        gave_fresh = any(self.is_unopened(given) for given in back)
        for given in back:
            self.forget(given)
        idle = sum(map(self.is_idle, self.ranges))
        unopened = self.unopened()
        assert not back or idle + len(unopened) >= self.reserve
        if has_ended:
            assert not idle or idle + len(unopened) <= self.reserve
            assert not (gave_fresh and self.low())
            if len(unopened) > self.reserve:
                largest = max(end - start + 1 for start, end in unopened)
                assert 4 * (len(self.fresh()) - largest) < self.granted

    def on_moved_away(self, id: int) -> None:
        start, end = whole = self.around(id)
        pieces = [r for r in ((start, id - 1), (id + 1, end)) if r[0] <= r[1]]
        self.ranges = (self.ranges - {whole}) | set(pieces)
        del self.state[id]
        if whole == self.current:
            low, high = (start, id - 1), (id + 1, end)
            self.current = high if id <= self.last_fresh else low

    def low(self) -> bool:
        return 4 * len(self.fresh()) < self.granted

    def forget(self, given: tuple[int, int]) -> None:
        self.ranges.remove(given)
        if given == self.current:
            self.current = None
        for id in self.ids(given):
            del self.state[id]

    def around(self, id: int) -> tuple[int, int]:
        (found,) = [r for r in self.ranges if r[0] <= id <= r[1]]
        return found

    def ids(self, of: tuple[int, int] | None) -> list[int]:
        return [id for id in range(of[0], of[1] + 1) if id in self.state] if of else []

    def states(self, of: tuple[int, int]) -> list[str | float]:
        return [self.state[id] for id in self.ids(of)]

    def fresh(self) -> list[int]:
        return self.of_kind("fresh")

    def of_kind(self, kind: str) -> list[int]:
        """The IDs that are "fresh", "live" or "resting"."""
        return [
            id
            for id, state in self.state.items()
            if (state if isinstance(state, str) else "resting") == kind
        ]

    def is_idle(self, of: tuple[int, int]) -> bool:
        return all(isinstance(state, float) for state in self.states(of))

    def unopened(self) -> list[tuple[int, int]]:
        return [of for of in self.ranges if self.is_unopened(of)]

    def is_unopened(self, of: tuple[int, int]) -> bool:
        return of != self.current and set(self.states(of)) == {"fresh"}
