"""The leader's part in file locks: from messages to the machine, and from its decisions to answers.

Here is checked who asks for whom: a process locks and unlocks for itself alone, by handles that
are its own. And here a descriptor that was closed without a word is found out: before a request
has to wait or is refused, and from time to time while any waits, the kernel is asked whether the
holders in its way still have what they locked by; a lock whose last descriptor is gone is gone.
The same comparison finds out that two handles are one open file description, as after a fork,
or where a descriptor was passed on: then they are one owner.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from libos_ipc.core.codes import Code
from libos_ipc.core.delegations import Delegations, Memory
from libos_ipc.core.descriptors import Inspector, Key
from libos_ipc.core.file_locks import FileLocks
from libos_ipc.core.lock_table import place_of
from libos_ipc.core.lock_words import (
    EOF,
    UNLOCK,
    WAIT_TIMED,
    Ask,
    Decision,
    FileId,
    Kind,
    Owner,
)
from libos_ipc.core.roster import Record, Roster
from libos_ipc.core.vocabulary import Answer, Effects, Journal, Refuse, Say, State

__all__ = ["ANY_PID", "LockDesk"]

#: The pid in a request for a lock of an open file description.
ANY_PID = 2**32 - 1
_POSIX, _FLOCK = 1, 2
#: Waiters that are looked after in one tick.
_PER_TICK = 64


class LockDesk:
    """Answers what concerns file locks. Without an `inspector` no descriptor counts as closed."""

    def __init__(
        self, roster: Roster, inspector: Inspector | None, memory: Memory | None = None
    ) -> None:
        self._roster = roster
        self.delegations = Delegations(roster, memory)
        self._inspector = inspector

    @property
    def _locks(self) -> FileLocks:
        return self._roster.locks

    # ---- requests

    def set(self, src: int, seq: int, fields: tuple[Any, ...], now: float) -> Effects:
        """FILE_LOCK_SET."""
        return self._set(src, seq, fields, now, Code.FILE_LOCK_SET)

    def take(self, src: int, seq: int, fields: tuple[Any, ...], now: float) -> Effects:
        """FILE_LOCK_TAKE: a lock of one acquisition, which is answered with its number."""
        return self._set(src, seq, fields, now, Code.FILE_LOCK_TAKE)

    def _set(self, src: int, seq: int, fields: tuple[Any, ...], now: float, code: Code) -> Effects:
        ask = self._ask_of(src, seq, fields, code)
        if isinstance(ask, int):
            return [self._refuse(src, seq, ask)] if seq else []
        effects = self._recalled(ask, now)
        if ask.owner.kind in (Kind.OFD, Kind.FLOCK):
            ask, found = self._unified(ask, now)
            effects += found
        if ask.type != UNLOCK:
            effects += self._close_the_closed(ask, now)
        effects += self._tell(self._locks.set(ask, now), {(src, seq): code})
        return effects + self.delegations.on_unlock(ask) if ask.type == UNLOCK else effects

    def get(self, src: int, seq: int, fields: tuple[Any, ...], now: float) -> Effects:
        """FILE_LOCK_GET."""
        ask = self._ask_of(src, seq, fields, Code.FILE_LOCK_GET)
        if isinstance(ask, int):
            return [self._refuse(src, seq, ask)] if seq else []
        effects = self._recalled(ask, now)
        if ask.owner.kind in (Kind.OFD, Kind.FLOCK):
            ask, same = self._unified(ask, now)
            effects += same
        effects += self._close_the_closed(ask, now)
        found = self._locks.get(ask)
        if found is None:
            answer = (0, int(fields[0]), UNLOCK, ask.start, ask.end, 0, 0)
        else:
            owner = found.owner
            family = _FLOCK if owner.kind == Kind.FLOCK else _POSIX
            handle = 0 if owner.kind == Kind.POSIX else owner.id
            pid = ANY_PID if owner.kind == Kind.OFD else found.pid
            answer = (0, family, found.type, found.start, found.end, pid, handle)
        return [*effects, Answer(src, seq, Code.FILE_LOCK_GET, answer)]

    def clear_pid(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """FILE_LOCK_CLEAR_PID: of the sender itself."""
        if fields[0] != self._roster.processes[src].pid:
            return [Answer(src, seq, Code.FILE_LOCK_CLEAR_PID, (-errno.EPERM,))]
        effects = self._tell(self._locks.clear_pid(fields[0], now))
        return [*effects, Answer(src, seq, Code.FILE_LOCK_CLEAR_PID, (0,))]

    def withdraw(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """FILE_LOCK_WITHDRAW: take a request back that waits, or has just been granted."""
        done, decision = self._locks.withdraw(src, fields[0], now)
        result = 0 if done else -errno.EALREADY
        answer = Answer(src, seq, Code.FILE_LOCK_WITHDRAW, (result,))
        return [*self._tell(decision), answer]

    def on_cancel(self, src: int, seq: int, now: float) -> Effects:
        """Somebody does not wait for the answer to a request any more."""
        return self._tell(self._locks.withdraw(src, seq, now)[1])

    def list_all(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """FILE_LOCK_TABLE."""
        effects: Effects = []
        for _, waiter in list(self._locks.waiting.values())[:_PER_TICK]:
            effects += self._close_the_closed(waiter.ask, now)
        rows = [(*row, False) for row in self._locks.table(now)]
        rows += self._delegated_rows()
        return [*effects, Answer(src, seq, Code.FILE_LOCK_TABLE, (tuple(rows),))]

    def _delegated_rows(self) -> Iterator[tuple[Any, ...]]:
        """What is locked in files that were given away; for one where nothing is, its holder."""
        for file, grant, entries in self.delegations.table():
            process = self._roster.processes.get(grant.vmid)
            who = (0 if process is None else process.pid, grant.vmid)
            head = (file, grant.path, int(Kind.FAIR))
            for handle, type, start, end, _, thread in entries or [(0, UNLOCK, 0, EOF, 0, 0)]:
                yield (*head, type, start, end, *who, thread, handle, 0.0, False, (), True)

    def returned(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """FILE_RETURNED: the sender has closed a slot that was recalled."""
        return self.delegations.on_returned(src, fields[0])

    def _recalled(self, ask: Ask, now: float) -> Effects:
        """The file is ours to decide on, whoever had it."""
        if ask.owner.kind == Kind.FLOCK:
            return []
        return self.delegations.on_ask(ask.src, ask.file, now)

    def handle_at(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """HANDLE_AT: by which descriptor the sender locks."""
        kind, handle, device, inode, fd, duplicate = fields
        record: Record = ("at", src, kind, handle, device, inode, fd, duplicate)
        self._roster.apply(record)
        return [Journal(record)]

    def handle_closed(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """HANDLE_CLOSED: the sender has found out itself that what it locked by is closed."""
        kind, handle, *file = fields
        if kind not in (Kind.POSIX, Kind.OFD, Kind.FLOCK):
            return []
        key = (kind, handle, file[0], file[1])
        if kind == Kind.POSIX:
            owner = Owner(kind, self._roster.processes[src].pid)
            return self._on_closed(src, owner, (file[0], file[1]), now)
        return [
            *self._forget(src, key),
            *self._tell(self._locks.drop_reference(src, kind, handle, now)),
        ]

    # ---- what happens

    def settle(self, now: float) -> Effects:
        """Whoever is next, after processes have gone."""
        return self._tell(self._locks.settle(now))

    def on_tick(self, now: float) -> tuple[Effects, bool]:
        """Look after those who wait. True if there are any."""
        effects: Effects = []
        waiting = self._locks.waiting
        for _, waiter in list(waiting.values())[:_PER_TICK] if self._inspector else ():
            effects += self._close_the_closed(waiter.ask, now)
        return effects, bool(waiting) and self._inspector is not None

    # ---- what a request says

    def _ask_of(self, src: int, seq: int, fields: tuple[Any, ...], code: Code) -> Ask | int:
        """The machine's words for it, or the errno of what is wrong with it."""
        family, type, start, end, pid, handle, wait, path, device, inode, thread = fields
        if end == 2**64 - 1:
            end = EOF
        if family not in (_POSIX, _FLOCK) or type not in (0, 1, 2) or wait > WAIT_TIMED:
            return errno.EINVAL
        if start > EOF or end > EOF:
            return errno.EOVERFLOW
        if start > end:
            return errno.EINVAL
        if type != UNLOCK and not seq:
            return errno.EINVAL  # nobody could be told
        kind = _kind_of(family, pid, handle, code)
        own = self._roster.processes[src].pid
        if kind is None:
            return errno.EINVAL
        if pid != own and kind != Kind.OFD and code != Code.FILE_LOCK_GET:
            return errno.EPERM
        owner = Owner(kind, pid if kind == Kind.POSIX else handle)
        sharers = self._locks.sharers(owner)
        if sharers and src not in sharers and code != Code.FILE_LOCK_GET:
            line = self._line_of(src)
            if not sharers & line and handle >> 32 not in line:
                return errno.EPERM
        file: FileId = (device, inode)
        asks = (src, seq, file, owner, type, start, end, int(wait), own, thread or 1, path)
        return Ask(*asks)

    def _line_of(self, vmid: int) -> frozenset[int]:
        """The process and those that it was forked from, whose handles it may have."""
        line: dict[int, None] = {}
        while vmid and vmid not in line:
            line[vmid] = None
            process = self._roster.processes.get(vmid)
            vmid = process.parent if process is not None and process.forked else 0
        return frozenset(line)

    # ---- descriptors

    def _unified(self, ask: Ask, now: float) -> tuple[Ask, Effects]:
        """The same request under the handle that its open file description has already."""
        locks, inspector = self._locks, self._inspector
        mine = self._roster.descriptors.spot(ask.src, _key(ask.owner, ask.file))
        me = self._roster.processes[ask.src]
        if inspector is None or mine is None or locks.owners.places(ask.owner):
            return ask, []
        space = locks.spaces.get(place_of(ask))
        there = [owner for owner, _ in space.ranges] if space else []
        there += [waiter.ask.owner for waiter in space.waiters] if space else []
        for owner in dict.fromkeys(owner for owner in there if owner.kind == ask.owner.kind):
            for vmid in sorted(locks.sharers(owner)):
                spot = self._roster.descriptors.spot(vmid, _key(owner, ask.file))
                other = self._roster.processes.get(vmid)
                if spot is None or other is None or spot.duplicate < 0:
                    continue
                if inspector.is_same(other.os_pid, spot.duplicate, me.os_pid, mine.fd):
                    kind, handle, *_ = _key(owner, ask.file)
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

    def _close_the_closed(self, ask: Ask, now: float) -> Effects:
        """Release what stands in the way and whose descriptors are closed."""
        if self._inspector is None:
            return []
        effects: Effects = []
        for owner, vmids in self._locks.holders_in_the_way(ask):
            for vmid in sorted(vmids):
                if owner.kind != Kind.FAIR and not self._is_open(vmid, owner, ask.file):
                    effects += self._on_closed(vmid, owner, ask.file, now)
        return effects

    def _is_open(self, vmid: int, owner: Owner, file: FileId) -> bool:
        spot = self._roster.descriptors.spot(vmid, _key(owner, file))
        process = self._roster.processes.get(vmid)
        if spot is None or process is None or process.state is not State.RUNNING:
            return True
        assert self._inspector is not None
        return self._inspector.is_open(process.os_pid, process.start_time, spot, *file)

    def _on_closed(self, vmid: int, owner: Owner, file: FileId, now: float) -> Effects:
        key = _key(owner, file)
        if owner.kind == Kind.POSIX:
            unlock = Ask(vmid, 0, file, owner, UNLOCK, 0, EOF, 0, owner.id, 1, b"")
            decision = self._locks.set(unlock, now)
            decision.outcomes[:] = [o for o in decision.outcomes if o.seq]
        else:
            decision = self._locks.drop_reference(vmid, owner.kind, owner.id, now)
        return [*self._forget(vmid, key), *self._tell(decision)]

    def _forget(self, vmid: int, key: Key) -> Effects:
        effects: Effects = []
        for each in self._roster.descriptors.names_of(vmid, key):
            record: Record = ("unat", vmid, *each)
            self._roster.apply(record)
            effects += [Journal(record), Say(vmid, Code.HANDLE_DROPPED, each)]
        return effects

    # ---- answers

    def _tell(
        self, decision: Decision, codes: dict[tuple[int, int], Code] | None = None
    ) -> Effects:
        effects: Effects = [Journal(record) for record in decision.records]
        codes = codes or {}
        refused = {(outcome.src, outcome.seq) for outcome in decision.outcomes if outcome.errno}
        for record in decision.records:
            if record[0] == "lock":
                ask = Ask.of(record[1])
                fair = ask.owner.kind == Kind.FAIR
                codes[ask.src, ask.seq] = Code.FILE_LOCK_TAKE if fair else Code.FILE_LOCK_SET
                if ask.type == UNLOCK:
                    effects += self._after_unlock(ask, (ask.src, ask.seq) in refused)
        for src, seq, number, granted, text in decision.outcomes:
            if src not in self._roster.processes or not seq:
                continue
            if number:
                effects.append(self._refuse(src, seq, number, text))
            elif codes.get((src, seq)) == Code.FILE_LOCK_TAKE:
                effects.append(Answer(src, seq, Code.FILE_LOCK_TAKE, (0, granted)))
            else:
                effects.append(Answer(src, seq, Code.FILE_LOCK_SET, (0,)))
        return effects

    def _after_unlock(self, ask: Ask, refused: bool) -> Effects:
        """An owner that has nothing left in a file needs no descriptor of it. Who has unlocked all
        of the file knows that; others are told, and who was `refused` a conversion of FLOCK, which
        has lost what it had."""
        owner = ask.owner
        places = self._locks.owners.places(owner)
        if owner.kind == Kind.FAIR or any(place[:2] == ask.file for place in places):
            return []
        effects: Effects = []
        for vmid in sorted({ask.src, *self._locks.sharers(owner)}):
            told = self._forget(vmid, _key(owner, ask.file))
            if vmid == ask.src and (ask.start, ask.end) == (0, EOF) and not refused:
                told = [effect for effect in told if isinstance(effect, Journal)]
            effects += told
        return effects

    def _refuse(self, src: int, seq: int, number: int, text: str = "") -> Refuse:
        return Refuse(src, seq, number, text or f"file lock: {errno.errorcode.get(number, number)}")


def _kind_of(family: int, pid: int, handle: int, code: Code) -> Kind | None:
    if family == _FLOCK:
        return Kind.FLOCK if handle and code != Code.FILE_LOCK_TAKE else None
    if code == Code.FILE_LOCK_TAKE:
        return Kind.FAIR if handle and pid != ANY_PID else None
    if handle:
        return Kind.OFD if pid == ANY_PID else None
    return Kind.POSIX if pid != ANY_PID else None


def _key(owner: Owner, file: FileId) -> Key:
    if owner.kind == Kind.POSIX:
        return int(owner.kind), 0, *file
    return int(owner.kind), owner.id, 0, 0
