"""What the leader knows of the descriptors by which locks are held, and finds out about them.

A descriptor that was closed without a word is found out: before a request has to wait or is
refused, and from time to time while any waits, the kernel is asked whether the holders in its way
still have what they locked by; a lock whose last descriptor is gone is gone. The same comparison
finds out that two handles are one open file description, as after a fork, or where a descriptor
was passed on: then they are one owner.
"""

from __future__ import annotations

from libos_ipc.core.delegations import Delegations
from libos_ipc.core.descriptors import Inspector
from libos_ipc.core.lock_answers import LockAnswers, key_of
from libos_ipc.core.lock_table import place_of
from libos_ipc.core.lock_words import EOF, Ask, FileId, Kind, Owner
from libos_ipc.core.roster import Record, Roster
from libos_ipc.core.vocabulary import Effects, Journal, State

__all__ = ["LockDescriptors"]


class LockDescriptors:
    """Without an `inspector` no descriptor counts as closed."""

    def __init__(
        self,
        roster: Roster,
        inspector: Inspector | None,
        delegations: Delegations,
        answers: LockAnswers,
    ) -> None:
        self._roster = roster
        self._locks = roster.locks
        self._inspector = inspector
        self._delegations = delegations
        self._answers = answers

    # ---- what members say

    def handle_at(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """HANDLE_AT: by which descriptor the sender locks."""
        kind, handle, device, inode, fd, duplicate = fields
        record: Record = ("at", src, kind, handle, device, inode, fd, duplicate)
        self._roster.apply(record)
        return [Journal(record)]

    def handle_closed(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """HANDLE_CLOSED: the sender has found out itself that what it locked by is closed. Without
        a file there is nothing that it has locked by itself."""
        kind, handle, device, inode = fields
        if kind not in (Kind.POSIX, Kind.OFD, Kind.FLOCK):
            return []
        effects = self._delegations.on_ask(src, (device, inode, kind == Kind.FLOCK), now)
        id = self._roster.processes[src].pid if kind == Kind.POSIX else handle
        return effects + self._on_closed([(src, Owner(kind, id))], (device, inode), now)

    # ---- what the kernel says

    def unified(self, ask: Ask, now: float) -> tuple[Ask, Effects]:
        """The same request under the handle that its open file description has already."""
        locks, inspector = self._locks, self._inspector
        mine = self._roster.descriptors.spot(ask.src, key_of(ask.owner, ask.file))
        me = self._roster.processes[ask.src]
        if inspector is None or mine is None or locks.owners.places(ask.owner):
            return ask, []
        space = locks.spaces.get(place_of(ask))
        there = [owner for owner, _ in space.ranges] if space else []
        there += [waiter.ask.owner for waiter in space.waiters] if space else []
        for owner in dict.fromkeys(owner for owner in there if owner.kind == ask.owner.kind):
            for vmid in sorted(locks.sharers(owner)):
                spot = self._roster.descriptors.spot(vmid, key_of(owner, ask.file))
                other = self._roster.processes.get(vmid)
                if spot is None or other is None or spot.duplicate < 0:
                    continue
                if inspector.is_same(other.os_pid, spot.duplicate, me.os_pid, mine.fd):
                    kind, handle, *_ = key_of(owner, ask.file)
                    record: Record = ("at", ask.src, kind, handle, 0, 0, *mine)
                    self._roster.apply(record)
                    effects = [Journal(record), *self._give(ask, owner, now)]
                    return ask._replace(owner=owner), effects
        return ask, []

    def _give(self, ask: Ask, owner: Owner, now: float) -> Effects:
        """The asker has this owner too, whatever becomes of its request: what is held is locked
        once more in its name."""
        locks = self._locks
        held_by = locks.spaces[place_of(ask)].ranges.held_by(owner, 0, EOF)
        if ask.src in locks.sharers(owner) or not held_by:
            return []
        held = held_by[0]
        again = ask._replace(seq=0, owner=owner, type=held.type, start=held.start, end=held.end)
        record: Record = ("lock", again.plain(), locks.next_number, now)
        self._roster.apply(record)
        return [Journal(record)]

    def close_the_closed(self, ask: Ask, now: float) -> Effects:
        """Release what stands in the way and whose descriptors are closed; and with it all else
        that these processes have closed of that file: one that ends closes everything at once."""
        if self._inspector is None:
            return []
        in_the_way = self._locks.holders_in_the_way(ask)
        found = [(vmid, owner) for owner, vmids in in_the_way for vmid in sorted(vmids)]
        closed = [each for each in found if not self._is_open(*each, ask.file)]
        if not closed:
            return []
        owners, place = self._locks.owners, place_of(ask)
        for vmid in dict.fromkeys(vmid for vmid, _ in closed):
            for owner in owners.owners_of(vmid):
                known = (vmid, owner) in found or place not in owners.places(owner)
                if not known and not self._is_open(vmid, owner, ask.file):
                    closed.append((vmid, owner))
        return self._on_closed(closed, ask.file, now)

    def _is_open(self, vmid: int, owner: Owner, file: FileId) -> bool:
        spot = self._roster.descriptors.spot(vmid, key_of(owner, file))
        process = self._roster.processes.get(vmid)
        if owner.kind == Kind.FAIR or spot is None or process is None:
            return True
        if process.state is State.STARTING:
            return True
        assert self._inspector is not None
        return self._inspector.is_open(process.os_pid, process.start_time, spot, *file)

    def _on_closed(self, closed: list[tuple[int, Owner]], file: FileId, now: float) -> Effects:
        decision = self._locks.drop_closed(closed, file, now)
        effects: Effects = []
        for vmid, owner in closed:
            effects += self._answers.forget(vmid, key_of(owner, file))
        return effects + self._answers.tell(decision)
