"""The words of the succession: roles, what is evidence, and what is to be done."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias

__all__ = [
    "Announce",
    "Begun",
    "Bid",
    "Damaged",
    "Deed",
    "Deeds",
    "Evidence",
    "FindHolder",
    "GiveUp",
    "Gone",
    "Inherit",
    "Inherited",
    "LetGo",
    "NoHeir",
    "Rejoin",
    "Role",
    "Sealed",
    "Stalled",
    "StepDown",
    "Taken",
    "Watch",
    "Won",
]


class Role(Enum):
    """What a process is in the succession."""

    FOLLOWING = "following"  #: a member of an epoch that another process leads
    BIDDING = "bidding"  #: tries the lock of the next epoch
    AWAITING = "awaiting"  #: another process has that lock, and is about to lead
    WATCHING = "watching"  #: may not lead: looks who gets that lock
    INHERITING = "inheriting"  #: has the lock, and rebuilds what the journals hold
    LEADING = "leading"
    LOST = "lost"  #: nobody leads any more


# ---- evidence


class Gone(NamedTuple):
    """A process is dead, or is another program now: its pidfd, the end of its liveness socket."""

    pid: int


class Stalled(NamedTuple):
    """A process has been stopped for too long (`stall.py`)."""

    pid: int


class Won(NamedTuple):
    """The lock of this epoch is ours."""

    epoch: int


class Taken(NamedTuple):
    """This process has the lock of this epoch; 0 if nobody has it now."""

    epoch: int
    pid: int


class Begun(NamedTuple):
    """The journal of this epoch is begun, and this process leads."""

    epoch: int
    pid: int


class Inherited(NamedTuple):
    """The state is rebuilt, and the journal of this epoch begun by us."""

    epoch: int


class Sealed(NamedTuple):
    """The journal of this epoch takes nothing more from us: a later heir has sealed it. To an heir
    also: it was begun before, by one who has died since."""

    epoch: int


class Damaged(NamedTuple):
    """The journals that this epoch should inherit cannot be read."""

    epoch: int


class NoHeir(NamedTuple):
    """Nobody has the lock of this epoch, and no process is alive that may lead."""

    epoch: int


Evidence: TypeAlias = Gone | Stalled | Won | Taken | Begun | Inherited | Sealed | Damaged | NoHeir


# ---- what is to be done


class Watch(NamedTuple):
    """Tell of the end of this process, and look at its state from time to time; of no other."""

    pid: int


class Bid(NamedTuple):
    """Try the lock of this epoch, and say Won or Taken."""

    epoch: int


class FindHolder(NamedTuple):
    """Look who has the lock of this epoch, now and then, until another deed is wanted; say Taken
    when that has changed, or NoHeir."""

    epoch: int


class Inherit(NamedTuple):
    """Seal all journals from `since` to the one before `epoch`, rebuild the state from the last
    that was begun, and begin that of `epoch`; say Inherited, Sealed or Damaged."""

    epoch: int
    since: int


class Announce(NamedTuple):
    """Lead this epoch: take its sockets up, and let everybody look at the journals."""

    epoch: int


class StepDown(NamedTuple):
    """Lead this epoch no more: close its links and lanes, and answer nobody."""

    epoch: int


class Rejoin(NamedTuple):
    """Close what belongs to older epochs, join this process's, and send again what it owes us."""

    epoch: int
    pid: int


class LetGo(NamedTuple):
    """Give the lock of this epoch back."""

    epoch: int


class GiveUp(NamedTuple):
    """LeaderLost, for whoever waits for the leader."""


Deed: TypeAlias = Watch | Bid | FindHolder | Inherit | Announce | StepDown | Rejoin | LetGo | GiveUp
Deeds: TypeAlias = list[Deed]
