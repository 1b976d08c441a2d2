"""The list of all kinds of misdeeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from . import members, memories, strangers
from .foe import Foe

__all__ = ["KINDS", "Kind"]


class Kind(NamedTuple):
    """`life` is how many misdeeds one attacker does; a `member` attacks, or a stranger."""

    run: Callable[[Foe, int], None]
    member: bool = True
    life: int = 5000

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def what(self) -> str:
        """In one sentence."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(members.random_frames),
        Kind(members.truncated),
        Kind(members.mutated),
        Kind(members.fields),
        Kind(members.sizes),
        Kind(members.codes),
        Kind(members.forged),
        Kind(members.replayed),
        Kind(members.hellos),
        Kind(strangers.strange_frames, member=False),
        Kind(strangers.impostors, member=False),
        Kind(strangers.joiners, member=False),
        Kind(strangers.halves, member=False),
        Kind(strangers.silent, member=False),
        Kind(strangers.watchers, member=False),
        Kind(memories.rings, life=1000),
        Kind(memories.desks),
        Kind(memories.bells),
        Kind(memories.slots),
        Kind(memories.slabs),
    )
}
