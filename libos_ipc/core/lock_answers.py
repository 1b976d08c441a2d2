"""From what was decided about file locks to what is told: journal, answers, and what to forget.

An owner that has nothing left in a file needs no descriptor of it any more, and neither do we.
"""

from __future__ import annotations

import errno

from libos_ipc.core.codes import Code
from libos_ipc.core.descriptors import Key
from libos_ipc.core.lock_words import EOF, UNLOCK, Ask, Decision, FileId, Kind, Owner
from libos_ipc.core.roster import Record, Roster
from libos_ipc.core.vocabulary import Answer, Effects, Journal, Refuse, Say

__all__ = ["LockAnswers", "key_of"]

#: What is not said in more words where it happens.
_WHY = {errno.EPERM: "not the caller's: the process that was named, or the handle"}


class LockAnswers:
    """Turns decisions into effects."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def tell(self, decision: Decision, codes: dict[tuple[int, int], Code] | None = None) -> Effects:
        """The records of a decision and the answers that follow; `codes` of requests that are
        answered at once, by (VMID, sequence number)."""
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
                effects.append(self.refuse(src, seq, number, text))
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
        places = self._roster.locks.owners.places(owner)
        if owner.kind == Kind.FAIR or any(place[:2] == ask.file for place in places):
            return []
        effects: Effects = []
        for vmid in sorted({ask.src, *self._roster.locks.sharers(owner)}):
            told = self.forget(vmid, key_of(owner, ask.file))
            if vmid == ask.src and (ask.start, ask.end) == (0, EOF) and not refused:
                told = [effect for effect in told if isinstance(effect, Journal)]
            effects += told
        return effects

    def forget(self, vmid: int, key: Key) -> Effects:
        """A process locks by this no more, by whatever handle it is known. What holds or waits by
        descriptors of the same numbers is something else: these were closed and used again."""
        effects: Effects = []
        places = self._roster.locks.owners.places
        for each in self._roster.descriptors.names_of(vmid, key):
            if each == key or not places(Owner(each[0], each[1])):
                record: Record = ("unat", vmid, *each)
                self._roster.apply(record)
                effects += [Journal(record), Say(vmid, Code.HANDLE_DROPPED, each)]
        return effects

    def refuse(self, src: int, seq: int, number: int, text: str = "") -> Refuse:
        """An error for an answer."""
        why = _WHY.get(number) or errno.errorcode.get(number, str(number))
        return Refuse(src, seq, number, text or f"file lock: {why}")


def key_of(owner: Owner, file: FileId) -> Key:
    """Under what the descriptor of this owner stands."""
    if owner.kind == Kind.POSIX:
        return int(owner.kind), 0, *file
    return int(owner.kind), owner.id, 0, 0
