"""What a node is as the leader of its group: the journal, the files, and how both change hands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from libos_ipc.core.roster import Record
from libos_ipc.core.snapshot import snapshot
from libos_ipc.core.vocabulary import Note
from libos_ipc.runtime.backlog import Backlog
from libos_ipc.runtime.belongings import Belongings
from libos_ipc.runtime.group_file import GroupFile
from libos_ipc.runtime.heir import Heir
from libos_ipc.runtime.journal_file import JournalFile, JournalSealed, seal
from libos_ipc.runtime.shortage import persist

__all__ = ["Leadership"]


class Leadership(Belongings):
    """The part of a node that leads, or may. What the session calls is called under its lock."""

    file: GroupFile
    heir: Heir

    def __init__(self, founding: Iterable[Record] | None) -> None:
        """`founding` if it leads from the beginning: what the founder has granted itself."""
        super().__init__()
        self.leading = founding is not None
        #: what the leader does when the group's last member has gone
        self.on_ended: Callable[[], None] = lambda: None
        self._backlog = Backlog()
        self._journal = None if founding is None else self._first_journal(founding)

    def _first_journal(self, founding: Iterable[Record]) -> JournalFile:
        """The journal of a group that is being founded."""
        journal = JournalFile(self.directory.journal(self.file.epoch))
        journal.append(("epoch", self.file.epoch))
        for record in founding:
            journal.append(record)
        journal.begin(os.getpid(), self.identity.vmid)
        return journal

    # ---- what the session tells

    def journal(self, record: tuple[object, ...]) -> None:
        if self._journal is None:
            raise JournalSealed("we lead no more")
        self._backlog.append(self.session, self._journal, record)

    def confirm(self) -> None:
        """JournalSealed, unless we lead still."""
        if self._journal is None or self._journal.sealed:
            raise JournalSealed("we lead no more")

    def ended(self) -> None:
        self.on_ended()

    def leader_gone(self, epoch: int) -> None:
        self.heir.on_leader_gone(epoch)

    def look_for_epoch(self) -> None:
        persist(self.session, self.heir.look)

    def watched(self) -> None:
        self.heir.on_watched()

    def sealed(self) -> None:
        self.heir.on_sealed()

    def tick(self, now: float) -> None:
        self.heir.on_tick(now)
        if self._journal is not None and self._journal.is_long:
            self._shorten(self._journal)

    def _shorten(self, journal: JournalFile) -> None:
        """Have the journal say the state, not how that has come about. Between two steps of the
        leader: all that it has decided is written, unless there was no room for it."""
        leader = self.session.member.leader
        if leader is None or self._backlog.waits:
            return
        try:
            journal.shorten(lambda: ("snapshot", snapshot(leader)))
        except JournalSealed:
            self.heir.on_sealed()
        except (OSError, MemoryError) as error:  # no room, or what nobody could read
            self.session.perform([Note("journal not shortened", {"error": str(error)})])

    # ---- succession

    def take_lead(self, journal: JournalFile, file: GroupFile) -> None:
        """The journal of a new epoch is begun, and is ours."""
        self.file = file
        self._journal = journal
        self.leading = True
        persist(self.session, lambda: self._publish(file))

    def _publish(self, file: GroupFile) -> None:
        """Say in the group's file who leads, for those who come: unless that is another by now."""
        if self.leading and self.file is file:
            self.directory.publish(file)

    def step_down(self) -> None:
        """Somebody else leads, or is about to. A process that was nothing but the leader ends."""
        self._close_leader()
        self.session.member.depose()
        self.forget_journal()
        self.leading = False
        if not self.identity.pid:
            self.on_ended()

    @property
    def is_sealed(self) -> bool:
        """Whether somebody else wants to lead in our place."""
        return self._journal is not None and self._journal.sealed

    def may_hand_over(self) -> bool:
        """Whether the group goes on without us, who lead it."""
        leader = self.session.member.leader
        if leader is None or not any(vmid != self.identity.vmid for vmid in leader.processes):
            return False
        return self.directory.lock.is_there_another_heir()

    def hand_over(self) -> None:
        """We have left: whoever is next need not wait for us."""
        seal(self.directory.journal(self.file.epoch))
        self.step_down()

    def end_leading(self) -> None:
        """The group is over: its files go."""
        self._close_leader()
        self.forget_journal()
        self.directory.remove()

    def forget_journal(self) -> None:
        """Give the journal's memory back. In a forked child: its copy."""
        journal, self._journal = self._journal, None
        self._backlog.clear()
        if journal is not None:
            journal.close()

    def _close_leader(self) -> None:
        leader = self.session.member.leader
        if leader is not None:
            leader.lock_desk.close()
            leader.sync_desk.close()
