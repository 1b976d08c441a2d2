"""Being in a group only to ask it something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from libos_ipc import Group, LeaderLost, Member
from libos_ipc.tokens import Token

__all__ = ["PATIENCE_S", "members_of", "visiting"]

#: Seconds that a leader may take to let us in.
PATIENCE_S = 5.0


@contextmanager
def visiting(name: str, runtime_dir: str | os.PathLike[str] | None) -> Iterator[Group]:
    """Join the group of this name or token for the time of a `with`, as one that never leads.

    A token would make us a child of its issuer, whose `wait` would then report our end: only
    where the group lives is taken from it.
    """
    wanted = ""
    if Token.is_one(name):
        token = Token.parse(name)
        name, wanted, runtime_dir = token.name, token.group_id, runtime_dir or token.runtime_dir
    with Group.join(name, runtime_dir=runtime_dir, timeout=PATIENCE_S, may_lead=False) as group:
        if wanted and Token.parse(group.token()).group_id != wanted:
            raise LeaderLost(f"the group {name!r} of this token is gone; another has its name")
        yield group


def members_of(group: Group) -> list[Member]:
    """The members of a group that we visit: all but ourselves."""
    return [member for member in group.members() if member.vmid != group.vmid]
