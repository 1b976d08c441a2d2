"""Many handles open in one process: what each takes of time and memory.

`python tests/sync_scale.py 100000`. Memory is the proportional set size of the process (PSS).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import libos_ipc
from libos_ipc import Group
from libos_ipc.sync import SyncHandle

__all__ = ["per_lock_us", "pss_bytes"]


def pss_bytes(os_pid: int) -> int:
    """What a process takes of memory; what it shares counts in parts."""
    with open(f"/proc/{os_pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))


def per_lock_us(handle: SyncHandle[bytes], *, exclusive: bool, times: int = 2000) -> float:
    """Microseconds of CPU for lock and unlock of what this process has already; the best of 7."""
    best = float("inf")
    for _ in range(7):
        began = time.process_time()
        for _ in range(times):
            with handle.exclusive() if exclusive else handle.shared():
                pass
        best = min(best, time.process_time() - began)
    return best / times * 1e6


def _report(what: str, before: dict[str, int], count: int, action: Callable[[], object]) -> None:
    began = time.monotonic()
    action()
    seconds = time.monotonic() - began
    bytes_each = {
        name: (pss_bytes(pid) - before[f"{name}:pss"]) / count
        for name, pid in (("member", before["member"]), ("leader", before["leader"]))
    }
    told = ", ".join(f"{value:.0f} B more at the {name}" for name, value in bytes_each.items())
    print(f"{what}: {seconds / count * 1e6:.0f} us each, {told} since the start")


def main(count: int) -> None:
    """Open, lock and change `count` handles; print what that takes."""
    with Group.create(leader="process") as group:
        (leader_vmid,) = {group.leader_vmid}
        leader = group._session.watches.os_pid(leader_vmid)
        few = [group.sync(number) for number in range(1, 11)]
        before = {"member": os.getpid(), "leader": leader}
        before |= {"member:pss": pss_bytes(os.getpid()), "leader:pss": pss_bytes(leader)}
        costs = {}
        for name, exclusive in (("SHARED", False), ("EXCLUSIVE", True)):
            costs[name] = per_lock_us(few[0], exclusive=exclusive)
        handles: list[SyncHandle[bytes]] = []
        _report(
            "opened",
            before,
            count,
            lambda: handles.extend(group.sync(number) for number in range(11, 11 + count)),
        )
        for name, exclusive in (("SHARED", False), ("EXCLUSIVE", True)):
            now = per_lock_us(handles[count // 2], exclusive=exclusive)
            print(
                f"lock and unlock, {name}: {costs[name]:.1f} us with 10 open, {now:.1f} us with "
                f"{count}: ratio {now / costs[name]:.2f}"
            )

        def write() -> None:
            for handle in handles:
                handle.lock(libos_ipc.State.EXCLUSIVE)
                handle.unlock(b"x" * 32)

        _report("changed (32 bytes)", before, count, write)
        began = time.monotonic()
        for handle in handles:
            handle.close()
        group.sync_table()
        print(f"closed: {(time.monotonic() - began) / count * 1e6:.0f} us each")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
