"""What a process has in a group beside its session: handlers of signals, descriptors, memory.

The session tells of what comes for these, under its lock, as it tells a node of everything.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import NamedTuple

from libos_ipc.core.member import Member
from libos_ipc.core.sync_words import Reference
from libos_ipc.core.vocabulary import GetMeta, Publish, SignalInfo
from libos_ipc.errors import NotJoined
from libos_ipc.runtime.batons import MembersBatons
from libos_ipc.runtime.deposits import MembersDeposits
from libos_ipc.runtime.descriptions import Descriptions
from libos_ipc.runtime.metadata import answer_meta
from libos_ipc.runtime.mirror import Mirrors
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.session import Session
from libos_ipc.runtime.signalling import Signalling
from libos_ipc.runtime.slabs import Slabs, remove_large

__all__ = ["Belongings", "Identity"]


class Identity(NamedTuple):
    """Who a process is in its group."""

    vmid: int
    pid: int
    ppid: int
    pgid: int
    parent_vmid: int
    may_lead: bool = True


class Belongings:
    """The part of a node that signals, locks and shared values need."""

    directory: GroupDir
    identity: Identity
    session: Session
    slabs: Slabs
    batons: MembersBatons
    deposits: MembersDeposits

    def __init__(self) -> None:
        self.signalling = Signalling(lambda: self.session)
        self.descriptions = Descriptions()
        self.mirrors = Mirrors()
        #: numbers the acquisitions of file locks
        self.acquisitions = itertools.count(1)
        #: IDs of threads, each in its own thread
        self.threads = threading.local()

    def map_values(self, member: Member) -> None:
        """The memory of sync handles: where values are committed and passed on, and where what
        nobody uses may be taken."""
        self.slabs = Slabs(self.directory.slabs(member.vmid))
        self.batons = MembersBatons(self.directory.path, member.vmid)
        self.deposits = MembersDeposits(self.directory.deposits(member.vmid), lambda: member.epoch)
        member.sync.client.open_baton = self.batons.open
        member.sync.client.open_deposit = self.deposits.open

    def partings(self) -> list[Callable[[], object]]:
        """What a forked child does with them; see `Forking.part`."""
        parents, steps = self.session, list[Callable[[], object]]()
        if len(parents.member.sync.client):
            gone = NotJoined("the sync handle was opened by the parent: this process was forked")
            # First, or what is the parent's would be ended, or taken back.
            steps += [self.batons.close, self.deposits.close]
            steps.append(lambda: parents.perform(parents.member.sync.on_server_lost(gone)))
        if self.signalling.used:  # handlers are the child's own, what waited is not
            steps.append(self.signalling.reborn)
        return [*steps, self.descriptions.reborn, self.mirrors.reborn]

    def close_belongings(self) -> None:
        """The process has left."""
        self.descriptions.close()
        self.mirrors.close()
        self.slabs.close()
        self.batons.close()
        self.deposits.close()

    # ---- what the session tells; under its lock

    def signalled(self, sig: int, info: SignalInfo) -> None:
        self.signalling.came(sig, info)

    def pgid_changed(self, pgid: int) -> None:
        self.identity = self.identity._replace(pgid=pgid)

    def get_meta(self, asked: GetMeta) -> None:
        # Not under the lock: looking at stacks and files takes a while.
        self.session.clock.later(0, lambda: answer_meta(self.session, self.identity.pid, asked))

    def handle_dropped(self, key: tuple[int, int, int, int]) -> None:
        self.descriptions.on_dropped(*key)

    def publish(self, effect: Publish) -> None:
        id, version, data, in_use = effect
        assert isinstance(data, bytes | Reference)
        if in_use is not None:
            try:
                self.slabs.reserve(id, data)
            except OSError:
                return  # memory is full: said when something is to be committed
            self.slabs.set_use(id, in_use)
            cell = self.session.member.sync.client.cell_of(id)
            if cell is not None:
                cell.record = self.slabs.record(id)
        self.slabs.publish(id, version, data)

    def unpublish(self, id: int) -> None:
        self.slabs.forget(id)
        self.deposits.forget(id)

    def discard(self, where: bytes) -> None:
        remove_large(self.directory.path, where)
