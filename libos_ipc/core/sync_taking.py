"""The server's part in deposits: it takes what a process does not use. See `sync_deposits`."""

from __future__ import annotations

from libos_ipc.core.sync_deposits import Deposits
from libos_ipc.core.sync_passing import SyncPassing
from libos_ipc.core.sync_rows import Handle, Row
from libos_ipc.core.sync_words import Decision, State

__all__ = ["SyncTaking"]


class SyncTaking(SyncPassing):
    """The part of the server that takes. Without `deposits` every process is asked."""

    deposits: Deposits | None = None

    def _taken(self, done: Decision, vmid: int, handle: Handle, row: Row, to: State) -> bool:
        """Whether what is in the way there could be taken, down to this state."""
        if self.deposits is None or row.silent or row.recall:
            return False
        taken = self.deposits.lower(self.epoch, vmid, handle.id, row.state, to)
        if taken is None:
            return False
        if row.state == State.EXCLUSIVE:
            self._take_value(done, vmid, handle, taken.value)
        self._record(done, ("taken", vmid, handle.id, int(to), taken.over))
        return True
