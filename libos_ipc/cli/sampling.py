"""What `top` shows of a group, asked at two moments: what changed in between are rates.

All members are asked at once, each by a thread of its own and for a short time: one that is
stopped or stuck has dashes, and holds up nobody. How long an answer takes is the latency.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from libos_ipc import Counters, Group, IpcError, LeaderLost, LockInfo, Member, NotJoined, Usage
from libos_ipc.cli.visit import members_of
from libos_ipc.cli.words import command_of

__all__ = ["Sample", "Sampler"]

#: Threads that ask, at most, and seconds that each answer may take.
_AT_ONCE = 32
_PATIENCE_S = 0.3


class _Answer(NamedTuple):
    """`counters` and `latency` (seconds) are None for a process that has not told them."""

    member: Member
    at: float
    usage: Usage | None
    counters: Counters | None
    latency: float | None


class Sample(NamedTuple):
    """What JSON shows: the group, and a row for each member."""

    group: dict[str, Any]
    members: list[dict[str, Any]]


class Sampler:
    """Looks at a group again and again."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._before: dict[int, _Answer] = {}

    def close(self) -> None:
        """Ask no more."""
        self._threads.shutdown()

    def look(self) -> Sample:
        """The group now; rates are since the last look. Errors as of `group.members`."""
        members = members_of(self._group)
        locks = [row for row in self._group.locks.table() if row.type != "none"]
        values = self._group.sync_table()
        answers = [answer for answer in self._threads.map(self._ask, members) if answer]
        held, waiting = _by_owner(locks, False), _by_owner(locks, True)
        opened = Counter(vmid for value in values for vmid, _, _ in value.states)
        rows = [
            {
                **self._row(answer),
                "locks": held[answer.member.vmid],
                "waiting": waiting[answer.member.vmid],
                "handles": opened[answer.member.vmid],
            }
            for answer in answers
        ]
        self._before = {answer.member.vmid: answer for answer in answers}
        return Sample(self._of_the_group(len(members), locks, len(values)), rows)

    def _of_the_group(self, members: int, locks: list[LockInfo], values: int) -> dict[str, Any]:
        waiting = sum(row.waiting for row in locks)
        return {
            "name": self._group.name,
            "epoch": self._group.epoch,
            "leader": self._group.leader_vmid,
            "members": members,
            "locks": len(locks) - waiting,
            "waiting": waiting,
            "handles": values,
        }

    def _ask(self, member: Member) -> _Answer | None:
        """What a member tells; None if it has just ended."""
        usage: Usage | None = None
        begun = time.monotonic()
        try:
            usage = self._group.getmeta(member.pid, "usage", timeout=_PATIENCE_S)
            begun = time.monotonic()
            counters = self._group.getmeta(member.pid, "counters", timeout=_PATIENCE_S)
        except ProcessLookupError:
            return None
        except (NotJoined, LeaderLost):
            raise
        except IpcError:
            return _Answer(member, begun, usage, None, None)
        now = time.monotonic()
        return _Answer(member, now, usage, counters, now - begun)

    def _row(self, answer: _Answer) -> dict[str, Any]:
        member, counters = answer.member, answer.counters
        return {
            "vmid": member.vmid,
            "pid": member.pid,
            "os_pid": member.os_pid,
            "state": member.state,
            "cpu": self._cpu(answer),
            "rss": answer.usage.max_rss if answer.usage else None,
            "sent_rate": self._rate(answer, "sent"),
            "received_rate": self._rate(answer, "received"),
            "latency": answer.latency,
            "counters": counters._asdict() if counters else None,
            "command": command_of(member.os_pid),
        }

    def _cpu(self, answer: _Answer) -> float | None:
        before = self._before.get(answer.member.vmid)
        if before is None or before.usage is None or answer.usage is None:
            return None
        used = sum(answer.usage[:2]) - sum(before.usage[:2])
        return max(used / (answer.at - before.at), 0.0)

    def _rate(self, answer: _Answer, field: str) -> float | None:
        before = self._before.get(answer.member.vmid)
        if before is None or before.counters is None or answer.counters is None:
            return None
        grown = getattr(answer.counters, field) - getattr(before.counters, field)
        return float(grown / (answer.at - before.at))


def _by_owner(locks: Iterable[LockInfo], waiting: bool) -> Counter[int]:
    return Counter(row.vmid for row in locks if row.waiting == waiting)
