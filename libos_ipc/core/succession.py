"""Who leads next: from evidence that the leader is lost to following another one, or being it.

Every process of the group runs this machine. There are three things that all of them see in the
group's directory, and no message is needed beside them:

- for each epoch a *lock*, which one process can have, and which its death gives back;
- for each epoch a *journal*, which is *begun* in one step, with all that the ones before it hold,
  and from then on says who leads. A leader commits to it before it tells anybody;
- of each journal that it may be *sealed*: in one step, and nothing is committed to it after that,
  nor is it begun.

Who has the lock of an epoch seals every journal below, reads the last one that was begun, and
begins its own. That is what makes a leader harmless that was only stopped: what it committed before
the seal is known to its successor, what it tries to commit after that is refused, so it tells
nobody. The lock merely spares most of them the work; two heirs at once do no harm, since the
one of the higher epoch seals the journal of the other.

                     Gone, Stalled                          Won
    FOLLOWING ------------------------> BIDDING ---------------------> INHERITING
      ^    ^                            |     ^                         |      |
      |    |              Taken by pid  |     | Gone (again)            |      | Inherited
      |    | Begun                      v     | Stalled (the next       |      v
      |    +------------------------- AWAITING  epoch's lock)           |   LEADING
      |                                                                 |      |
      +------------------------ Begun by another, of a later epoch -----+------+

A process that may not lead does not bid: it is WATCHING who does, and deposes nobody. It is LOST
when nobody is left that may lead, or when the journal is damaged; should anybody lead after all,
it follows.

What comes late (of a process that is watched no more, of a lock not wanted any more) has no
effect, but that a lock won too late is let go. A step that cannot be is the missing key of the
table.

Invariants: the epoch never falls; a process leads only an epoch that it has begun.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from libos_ipc.core.succession_words import (
    Announce,
    Begun,
    Bid,
    Damaged,
    Deeds,
    Evidence,
    FindHolder,
    GiveUp,
    Gone,
    Inherit,
    Inherited,
    LetGo,
    NoHeir,
    Rejoin,
    Role,
    Sealed,
    Stalled,
    StepDown,
    Taken,
    Watch,
    Won,
)
from libos_ipc.errors import ProtocolError

__all__ = ["Succession"]


class Succession:
    """One process's view: `leader` is the pid that leads `epoch`, `pid` is our own.

    `may_lead` is False for a process that is kept out of the succession.
    """

    __slots__ = ("epoch", "leader", "may_lead", "pid", "role", "target", "watched")

    def __init__(self, pid: int, *, epoch: int, leader: int, may_lead: bool = True) -> None:
        self.pid = pid
        self.may_lead = may_lead
        self.epoch = epoch
        self.leader = leader
        self.role = Role.LEADING if leader == pid else Role.FOLLOWING
        #: the epoch whose lock is wanted, tried, or ours
        self.target = epoch
        #: whose end is evidence
        self.watched = 0 if leader == pid else leader

    def begin(self) -> Deeds:
        """What to do as a member that has just joined."""
        return [Watch(self.watched)] if self.watched else []

    def on(self, evidence: Evidence) -> Deeds:
        """What to do now that this has become known. ProtocolError if it cannot be."""
        if isinstance(evidence, Gone | Stalled):
            if evidence.pid != self.watched:
                return []
        elif isinstance(evidence, Begun):
            if evidence.epoch <= self.epoch or evidence.pid == self.pid:
                return []
        elif evidence.epoch != self._own_epoch(evidence):
            return [LetGo(evidence.epoch)] if isinstance(evidence, Won) else []
        try:
            step = _TABLE[self.role][type(evidence)]
        except KeyError:
            raise ProtocolError(f"{evidence} while {self.role.value} in {self.epoch}") from None
        return step(self, evidence)

    def _own_epoch(self, evidence: Evidence) -> int:
        return self.epoch if self.role is Role.LEADING else self.target

    # ---- steps

    def _seek(self, target: int) -> Deeds:
        """There is no leader: the next one has the lock of this epoch."""
        self.target = target
        self.watched = 0
        self.role = Role.BIDDING if self.may_lead else Role.WATCHING
        return [Bid(target) if self.may_lead else FindHolder(target)]

    def _on_leader_lost(self, evidence: Evidence) -> Deeds:
        return self._seek(self.epoch + 1)

    def _on_leader_stalled(self, evidence: Evidence) -> Deeds:
        """Who may not lead deposes nobody: the leader may go on before anybody else does."""
        return self._seek(self.epoch + 1) if self.may_lead else []

    def _on_winner_gone(self, evidence: Evidence) -> Deeds:
        """It gave the lock back by its end, and may have begun before that: then Begun is next."""
        return self._seek(self.target)

    def _on_winner_stalled(self, evidence: Evidence) -> Deeds:
        """It has the lock for as long as it pleases, so the next one is what we want."""
        return self._seek(self.target + 1) if self.may_lead else []

    def _on_won(self, evidence: Evidence) -> Deeds:
        self.role = Role.INHERITING
        return [Inherit(self.target, self.epoch)]

    def _on_taken(self, evidence: Evidence) -> Deeds:
        assert isinstance(evidence, Taken)
        if not evidence.pid:
            return self._seek(self.target)
        self.role = Role.AWAITING
        self.watched = evidence.pid
        return [Watch(evidence.pid), FindHolder(self.target)]

    def _on_still_taken(self, evidence: Evidence) -> Deeds:
        """Looked at again: the winner may have let go, alive as it is."""
        assert isinstance(evidence, Taken)
        return [] if evidence.pid == self.watched else self._on_taken(evidence)

    def _on_begun(self, evidence: Evidence) -> Deeds:
        assert isinstance(evidence, Begun)
        self.role = Role.FOLLOWING
        self.epoch = self.target = evidence.epoch
        self.leader = self.watched = evidence.pid
        return [Rejoin(*evidence), Watch(evidence.pid)]

    def _on_rival_begun(self, evidence: Evidence) -> Deeds:
        """An heir hears of an epoch: of a later one it is a member, an earlier one it inherits."""
        assert isinstance(evidence, Begun)
        if evidence.epoch < self.target:
            return []
        mine = self.target
        return [LetGo(mine), *self._on_begun(evidence)]

    def _on_deposed(self, evidence: Evidence) -> Deeds:
        mine = self.epoch
        return [StepDown(mine), LetGo(mine), *self._on_begun(evidence)]

    def _on_inherited(self, evidence: Evidence) -> Deeds:
        self.role = Role.LEADING
        self.epoch = self.target
        self.leader = self.pid
        return [Announce(self.epoch)]

    def _on_leader_sealed(self, evidence: Evidence) -> Deeds:
        """Somebody is about to lead instead of us: one of those who want to, as we may too."""
        mine = self.epoch
        return [StepDown(mine), LetGo(mine), *self._seek(mine + 1)]

    def _on_heir_sealed(self, evidence: Evidence) -> Deeds:
        mine = self.target
        return [LetGo(mine), *self._seek(mine + 1)]

    def _on_damaged(self, evidence: Evidence) -> Deeds:
        mine = self.target
        return [LetGo(mine), *self._on_nobody(evidence)]

    def _on_nobody(self, evidence: Evidence) -> Deeds:
        self.role = Role.LOST
        return [GiveUp()]

    def _let_go(self, evidence: Evidence) -> Deeds:
        assert isinstance(evidence, Won)
        return [LetGo(evidence.epoch)]

    def _nothing(self, evidence: Evidence) -> Deeds:
        return []


Step: TypeAlias = Callable[[Succession, Evidence], Deeds]
_s = Succession

#: role -> evidence -> step
_TABLE: dict[Role, dict[type, Step]] = {
    Role.FOLLOWING: {
        Gone: _s._on_leader_lost,
        Stalled: _s._on_leader_stalled,
        Begun: _s._on_begun,
        Won: _s._let_go,
        Taken: _s._nothing,
        NoHeir: _s._nothing,
        Sealed: _s._nothing,
    },
    Role.BIDDING: {
        Won: _s._on_won,
        Taken: _s._on_taken,
        Begun: _s._on_begun,
        NoHeir: _s._nothing,
    },
    Role.AWAITING: {
        Gone: _s._on_winner_gone,
        Stalled: _s._on_winner_stalled,
        Taken: _s._on_still_taken,
        Begun: _s._on_begun,
        NoHeir: _s._nothing,
    },
    Role.WATCHING: {
        Taken: _s._on_taken,
        NoHeir: _s._on_nobody,
        Begun: _s._on_begun,
    },
    Role.INHERITING: {
        Inherited: _s._on_inherited,
        Sealed: _s._on_heir_sealed,
        Damaged: _s._on_damaged,
        Begun: _s._on_rival_begun,
        Taken: _s._nothing,
    },
    Role.LEADING: {
        Sealed: _s._on_leader_sealed,
        Begun: _s._on_deposed,
        Taken: _s._nothing,
    },
    Role.LOST: {
        Begun: _s._on_begun,
        Won: _s._let_go,
        Taken: _s._nothing,
        NoHeir: _s._nothing,
    },
}
