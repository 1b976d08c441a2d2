"""The faces of IDs and VMIDs: `group.ids` and `group.vmids`."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from libos_ipc.core.codes import Code
from libos_ipc.errors import IdsExhausted, InvalidRange, PeerDied, error_for
from libos_ipc.runtime.ticket import Ticket

if TYPE_CHECKING:
    from libos_ipc.group import Group
    from libos_ipc.runtime.session import Session

__all__ = ["Ids", "Vmids"]

#: What the leader says to a move.
_REFUSED = {
    errno.ESRCH: "no such process is in the group: `group.members()` says who is there",
    errno.EPERM: "it is another process's",
    errno.EINVAL: "nobody has it, or it is a pid or a process group",
}


class Ids:
    """IDs of the group: numbers in 1 … `id_max` that are never given out twice while in use.

    Any thread may call; only a call that needs the leader blocks, for a round trip. IDs end
    with their owner: when a process dies or leaves, all that it owns become free.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        #: what knows the next ID without asking anybody, as long as it is offered
        self._quick = group._session.member.ids

    def new(self, owner: int | None = None) -> int:
        """A fresh ID, ours, or already handed over to the process `owner` (a VMID).

        Usually no message: the next ID of a range that this process was given. IdsExhausted
        when every ID up to `id_max` is in use.

        >>> with libos_ipc.Group.create() as group:
        ...     id = group.ids.new()
        ...     group.ids.owner(id) == group.vmid
        True
        """
        id = self._quick.take() or self._new()
        if owner is not None and owner != self._group.vmid:
            try:
                self.move(id, owner)
            except PeerDied:
                self.release(id)
                raise
        return id

    def _new(self) -> int:
        session = self._group._session
        while True:
            with session.lock:
                self._offer(session)
                member, now = session.member, time.monotonic()
                id = member.ids.new(now)
                if id is not None:
                    if member.ids.low():
                        session.perform(member.provision.want_range(now))
                    return id
            self._get_range()

    def _offer(self, session: Session) -> None:
        """From now on, single IDs need no more than a look at the lock. Under it."""
        session.check_open()
        self._quick = session.member.ids
        self._quick.offer(session.lock, self._group.pid)

    def _get_range(self) -> None:
        session = self._group._session
        with session.lock:
            provision = session.member.provision
            session.perform(provision.want_range(time.monotonic()))
            session.wait_for(lambda: not provision.range_coming, None)
            if provision.failed is not None:
                raise provision.failed
            if provision.exhausted:
                raise IdsExhausted("every ID of the group is in use; found it with a larger id_max")

    def release(self, id: int) -> None:
        """Give an ID back. InvalidRange if this process does not own it, or did already."""
        if self._quick.put(id):
            return
        group = self._group
        session = group._session
        if id == group.pid:
            raise InvalidRange(f"ID {id} is this process's own pid: it ends with the process")
        with session.lock:
            self._offer(session)
            member, now = session.member, time.monotonic()
            spent = member.ids.release(_checked(id), now)
            if spent:
                session.perform(member.provision.give_back(spent, now))
        if spent is None:
            self.release_range(range(id, id + 1))

    def owner(self, id: int) -> int | None:
        """VMID of the process that owns `id`, None if nobody does. Asks the leader."""
        (vmid,) = self._group._session.ask_leader(Code.GET_ID_OWNER, _checked(id))
        return vmid or None

    def move(self, id: int, vmid: int) -> None:
        """Hand an ID of ours over to the process `vmid`; done when this returns.

        InvalidRange if nobody owns it, PermissionDenied if somebody else does, PeerDied if
        there is no such process. Where a signal handler's exception ends the wait, the ID moves
        all the same.
        """
        session = self._group._session
        if id == self._group.pid:
            raise InvalidRange(f"ID {id} is this process's own pid and stays with it")
        ticket = Ticket()
        with session.lock:
            session.check_open()
            member = session.member
            if member.ids.owns(_checked(id)) and not member.ids.in_use(id):
                raise InvalidRange(f"ID {id} is not in use: `new` gives it out when its turn comes")
            session.perform(member.move_id(id, vmid, ticket, time.monotonic()))
        ticket.wait(None)
        answer = ticket.result()
        assert isinstance(answer, tuple)
        result = answer[0]
        assert isinstance(result, int)
        if result:
            why = _REFUSED.get(-result, "the leader refused it")
            raise error_for(-result, f"moving ID {id} to VMID {vmid}: {why}")

    def alloc_range(self) -> range:
        """The leader's own operation: a range of up to `id_range_size` IDs, ours to give back."""
        start, end = self._group._session.ask_leader(Code.ALLOC_ID_RANGE)
        if not start:
            raise IdsExhausted("every ID of the group is in use; found it with a larger id_max")
        return range(start, end + 1)

    def release_range(self, ids: range) -> None:
        """Give a range back that `alloc_range` gave, or what splits have left of it.

        It must name exactly one range of ours as it stands; InvalidRange otherwise, and
        nothing changes.
        """
        if not isinstance(ids, range) or ids.step != 1 or not ids:
            raise InvalidRange(f"{ids} is no range of IDs: give range(first, last + 1)")
        start, end = _checked(ids[0]), _checked(ids[-1])
        with self._group._session.lock:
            own = self._group._session.member.ids
            if own.owns(start) or own.owns(end):
                raise InvalidRange(
                    f"IDs {start} … {end}: `new` gives out some of them; `release` them singly"
                )
        (result,) = self._group._session.ask_leader(Code.RELEASE_ID_RANGE, start, end)
        if result:
            raise InvalidRange(
                f"IDs {start} … {end} are not exactly one range of VMID {self._group.vmid}: "
                "release what alloc_range gave, or the parts that moves have left"
            )


class Vmids:
    """VMIDs: numbers of processes, never used twice in a group."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def new(self) -> int:
        """A fresh VMID. Asks the leader."""
        return int(self._group._session.ask_leader(Code.GET_NEW_VMID)[0])


def _checked(id: int) -> int:
    if not isinstance(id, int) or not 1 <= id < 2**32:
        raise InvalidRange(f"{id!r} is no ID: they are whole numbers in 1 … 2**32-1")
    return id
