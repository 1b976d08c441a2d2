"""The leader's part in file locks: from messages to the machine, and from its decisions to answers.

Here is checked who asks for whom: a process locks and unlocks for itself alone, by handles that
are its own. Before the machine decides, a file that was given away, to one process
(`delegations.py`) or to those who take turns (`lock_passing.py`), is taken back, and what stands in
the way by a closed descriptor is released (`lock_descriptors.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from libos_ipc.core.codes import Code
from libos_ipc.core.delegations import Delegations, Entry, Memory
from libos_ipc.core.descriptors import NOWHERE, Inspector
from libos_ipc.core.file_locks import FileLocks
from libos_ipc.core.lock_answers import LockAnswers, key_of
from libos_ipc.core.lock_descriptors import LockDescriptors
from libos_ipc.core.lock_passing import LockPassing
from libos_ipc.core.lock_table import place_of
from libos_ipc.core.lock_words import (
    EOF,
    UNLOCK,
    WAIT,
    WAIT_TIMED,
    Ask,
    Decision,
    FileId,
    Kind,
    Owner,
)
from libos_ipc.core.roster import Roster
from libos_ipc.core.vocabulary import Answer, Effects

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
        self._inspector = inspector
        self._answers = LockAnswers(roster)
        self.delegations = Delegations(roster, memory)
        self.passing = LockPassing(roster, None if memory is None else memory.turns, self._answers)
        self.descriptors = LockDescriptors(roster, inspector, self.delegations, self._answers)

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
            return [self._answers.refuse(src, seq, ask)] if seq else []
        joined = self.passing.join(ask)
        if joined:
            return joined
        effects = self._recalled(ask, now)
        if not self._may_use(ask):
            return [*effects, self._answers.refuse(src, seq, errno.EPERM)] if seq else effects
        if ask.owner.kind in (Kind.OFD, Kind.FLOCK):
            ask, found = self.descriptors.unified(ask, now)
            effects += found
        if ask.type != UNLOCK:
            effects += self.descriptors.close_the_closed(ask, now)
        if ask.wait == WAIT and self._roster.files.turns and self._locks.must_wait(ask):
            effects += self.passing.on_wait(src, now)
        told = self._answers.tell(self._decide(ask, now), {(src, seq): code})
        if ask.type != UNLOCK:
            return [*effects, *self._forget_idle(ask), *told]
        # Who hears the answer has the file already, if it is to have it: its next request would
        # only take it back.
        answers = [effect for effect in told if isinstance(effect, Answer)]
        others = [effect for effect in told if not isinstance(effect, Answer)]
        given = self.passing.on_unlock(ask) or self.delegations.on_unlock(ask)
        return [*effects, *others, *given, *answers]

    def _decide(self, ask: Ask, now: float) -> Decision:
        """Who was found waiting in turns waits here under its handle, until it asks itself."""
        if (ask.src, ask.owner.id) not in self._locks.waiting or ask.owner.kind != Kind.FAIR:
            return self._locks.set(ask, now)
        if ask.type != UNLOCK:
            return self._locks.claim(ask, now)
        left = self._locks.withdraw(ask.src, ask.owner.id, now)[1]
        done = self._locks.set(ask, now)
        return Decision(left.records + done.records, left.outcomes + done.outcomes)

    def _forget_idle(self, ask: Ask) -> Effects:
        """By what a process asked in vain, or only asked: a POSIX lock that it takes by and by, by
        path, must not end with that."""
        own = Owner(Kind.POSIX, ask.pid)
        held = any(place[:2] == ask.file for place in self._locks.owners.places(own))
        if ask.owner.kind != Kind.POSIX or held:
            return []
        return self._answers.forget(ask.src, key_of(own, ask.file))

    def _may_use(self, ask: Ask) -> bool:
        """Whether the process may have this handle: it is known to, or what it was forked from
        had it."""
        sharers = self._locks.sharers(ask.owner)
        if not sharers or ask.src in sharers:
            return True
        line = self._roster.processes[ask.src].line()
        return not sharers.isdisjoint(line) or ask.owner.id >> 32 in line

    def get(self, src: int, seq: int, fields: tuple[Any, ...], now: float) -> Effects:
        """FILE_LOCK_GET."""
        ask = self._ask_of(src, seq, fields, Code.FILE_LOCK_GET)
        if isinstance(ask, int):
            return [self._answers.refuse(src, seq, ask)] if seq else []
        effects = self._recalled(ask, now)
        if ask.owner.kind in (Kind.OFD, Kind.FLOCK):
            ask, same = self.descriptors.unified(ask, now)
            effects += same
        effects += self.descriptors.close_the_closed(ask, now)
        effects += self._forget_idle(ask)
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
        effects = self.delegations.on_clear(src, now)
        effects += self._answers.tell(self._locks.clear_pid(fields[0], now))
        return [*effects, Answer(src, seq, Code.FILE_LOCK_CLEAR_PID, (0,))]

    def withdraw(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """FILE_LOCK_WITHDRAW: take a request back that waits, or has just been granted."""
        done, decision = self._locks.withdraw(src, fields[0], now)
        result = 0 if done else -errno.EALREADY
        effects = self._answers.tell(decision)
        effects.append(Answer(src, seq, Code.FILE_LOCK_WITHDRAW, (result,)))
        if any(record[0] == "left" for record in decision.records):
            # A successor may be asked both once more, and must not begin with granting it.
            effects.append(self._answers.refuse(src, fields[0], errno.ECANCELED))
        return effects

    def on_cancel(self, src: int, seq: int, now: float) -> Effects:
        """Somebody does not wait for the answer to a request any more."""
        return self._answers.tell(self._locks.withdraw(src, seq, now)[1])

    def list_all(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """FILE_LOCK_TABLE."""
        effects: Effects = []
        for _, waiter in list(self._locks.waiting.values())[:_PER_TICK]:
            effects += self.descriptors.close_the_closed(waiter.ask, now)
        rows = [(*row, False) for row in self._locks.table(now)]
        rows += self._delegated_rows()
        rows += self._rows_in_turns()
        return [*effects, Answer(src, seq, Code.FILE_LOCK_TABLE, (tuple(rows),))]

    def _delegated_rows(self) -> Iterator[tuple[Any, ...]]:
        """What is locked in files that were given away; for one where nothing is, its holder."""
        for place, grant, entries in self.delegations.table():
            process = self._roster.processes.get(grant.vmid)
            who = (0 if process is None else process.pid, grant.vmid)
            nothing = Entry(grant.kind, 0, UNLOCK, 0, EOF, 0, 0, *NOWHERE)
            for kind, handle, type, start, end, _, thread, *_ in entries or [nothing]:
                what = (place[:2], grant.path, kind, type, start, end)
                yield (*what, *who, thread, handle, 0.0, False, (), True)

    def _rows_in_turns(self) -> Iterator[tuple[Any, ...]]:
        """Who has a lock that is handed on, and who waits for it there."""
        for file, standing in self.passing.table():
            holders = tuple((ask.src, ask.pid) for ask, has_it in standing if has_it)
            for ask, has_it in standing:
                what = (file, ask.path, int(Kind.FAIR), ask.type, ask.start, ask.end)
                who = (ask.pid, ask.src, ask.thread, ask.owner.id, 0.0)
                yield (*what, *who, not has_it, () if has_it else holders, has_it)

    def returned(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """FILE_RETURNED: the sender has closed a slot that was recalled."""
        return self.delegations.on_returned(src, fields[0])

    def _recalled(self, ask: Ask, now: float) -> Effects:
        """The file is ours to decide on, whoever had it."""
        effects = self.delegations.on_ask(ask.src, place_of(ask), now)
        if ask.owner.kind != Kind.FLOCK:
            effects += self.passing.on_ask(ask, now)
        return effects

    # ---- what happens

    def on_gone(self, vmid: int, now: float) -> Effects:
        """A process is gone, or has exec'ed: to be called before it is."""
        return self.passing.on_gone(vmid, now) + self.delegations.on_gone(vmid, now)

    def close(self) -> None:
        """Nobody leads here any more."""
        self.delegations.close()
        self.passing.close()

    def settle(self, now: float) -> Effects:
        """Whoever is next, after processes have gone."""
        return self._answers.tell(self._locks.settle(now))

    def on_tick(self, now: float) -> tuple[Effects, bool]:
        """Look after those who wait. True if there are any."""
        effects: Effects = []
        waiting = self._locks.waiting
        for _, waiter in list(waiting.values())[:_PER_TICK] if self._inspector else ():
            effects += self.descriptors.close_the_closed(waiter.ask, now)
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
        file: FileId = (device, inode)
        asks = (src, seq, file, owner, type, start, end, int(wait), own, thread or 1, path)
        return Ask(*asks)


def _kind_of(family: int, pid: int, handle: int, code: Code) -> Kind | None:
    if family == _FLOCK:
        return Kind.FLOCK if handle and code != Code.FILE_LOCK_TAKE else None
    if code == Code.FILE_LOCK_TAKE:
        return Kind.FAIR if handle and pid != ANY_PID else None
    if handle:
        return Kind.OFD if pid == ANY_PID else None
    return Kind.POSIX if pid != ANY_PID else None
