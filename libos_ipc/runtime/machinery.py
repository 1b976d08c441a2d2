"""The leader's machine with the hands that it has in a real process."""

from __future__ import annotations

from libos_ipc.config import GroupConfig
from libos_ipc.core.leader import Leader
from libos_ipc.core.roster import LEADER_VMID
from libos_ipc.runtime.batons import LeadersBatons
from libos_ipc.runtime.deposits import LeadersDeposits
from libos_ipc.runtime.held_files import SharedSlots
from libos_ipc.runtime.inspector import Inspector
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.slabs import read_remains

__all__ = ["make_leader"]


def make_leader(
    directory: GroupDir, config: GroupConfig, *, first_vmid: int = LEADER_VMID + 1
) -> Leader:
    """An empty leader's machine with the group's knobs."""
    return Leader(
        id_max=config.id_max,
        range_size=config.id_range_size,
        quarantine_s=config.quarantine,
        first_vmid=first_vmid,
        inspector=Inspector(),
        memory=SharedSlots(directory) if config.lock_delegation else None,
        read_remains=lambda vmid: read_remains(directory.slabs(vmid)),
        batons=LeadersBatons(directory.path),
        deposits=LeadersDeposits(directory.deposits, directory.slabs),
    )
