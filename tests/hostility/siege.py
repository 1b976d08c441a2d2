"""One siege: a group, a kind of misdeed, attackers in pairs, and what came of it."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Literal, NamedTuple

from libos_ipc import Child, Group, GroupConfig, IpcError

from .board import Board, Place
from .foe import Foe, Target
from .gauge import Gauge, look_at
from .kinds import Kind
from .memories import recorded
from .people import ECHO, bystander, echo, hushed, newcomer, victim

__all__ = ["Outcome", "besiege"]

#: What the besieged may take to come to rest, and to end.
SETTLING_S, ENDING_S = 30.0, 60.0
#: What may be left of growth at the end: KiB of the process's own, descriptors, threads.
MOST_KIB, MOST_DESCRIPTORS, MOST_THREADS = 24 << 10, 48, 2
#: A sanitizer's allocator keeps much of what was freed, and what it knows of it.
if "libasan" in os.environ.get("LD_PRELOAD", ""):
    MOST_KIB *= 8
#: Misdeeds before the first look at the gauges: by then all that is made once is made.
WARM_UP = 0.1


class Outcome(NamedTuple):
    """`complaints` is empty if all went as it must."""

    kind: str
    sent: int
    seconds: float
    deeds: int
    worst_s: float
    noted: int
    refused: int
    growth: dict[str, Gauge]
    complaints: list[str]


class _Siege:
    def __init__(self, group: Group, board: Board, kind: Kind, seed: int, home: Path) -> None:
        self.group = group
        self.board = board
        self.kind = kind
        self.seed = seed
        self.until = math.inf
        self.complaints: list[str] = []
        group.on(ECHO)(echo)
        self.victim = group.spawn(victim, group, self.board)
        peers = [self.victim.vmid, group.vmid]
        self.bystanders = []
        for place in range(2):
            given = (group, self.board, place, list(peers), home)
            self.bystanders.append(group.spawn(bystander, *given))
            peers = [self.victim.vmid, self.bystanders[0].vmid]
        self.targets = self._targets()

    def _targets(self) -> list[Target]:
        file = self.group._node.file
        directory = Path(self.group._node.directory.path)
        leader = self.group._node.directory.lock.holder(file.epoch)
        those = ((self.victim.vmid, self.victim.os_pid), (self.group.leader_vmid, leader))
        return [Target(vmid, pid, directory, file.id, file.epoch) for vmid, pid in those]

    # ---- attackers

    def attack(self, place: int, count: int) -> Child:
        """Set an attacker on the target at this place, for so many misdeeds."""
        self.seed += 1
        self.board[Place.SENT + place] = 0
        child = self.group.spawn(
            _attack, self.group, self.board, self.kind, self.targets[place], self.seed, count, place
        )
        self.board[Place.ATTACKER + place] = child.vmid if self.kind.member else 0
        return child

    def end_of(self, place: int, child: Child) -> int:
        """How many misdeeds the attacker has come to."""
        try:
            status = child.wait(ENDING_S)
            if status.code:
                self.complaints.append(f"attacker {child.vmid} ended with {status}")
        except IpcError as error:
            self.complaints.append(f"attacker {child.vmid} did not come to an end: {error}")
            _kill(child)
        self.board[Place.ATTACKER + place] = 0
        return self.board[Place.SENT + place]

    def attack_all(self, count: int) -> int:
        """An attacker for each target at a time, until so many misdeeds are done, the time is over,
        or somebody has ended."""
        sent, places = 0, range(len(self.targets))
        while sent < count and not self.complaints and time.monotonic() < self.until:
            life = min(self.kind.life, -(-(count - sent) // len(places)))
            foes = [self.attack(place, life) for place in places]
            sent += sum(self.end_of(place, child) for place, child in enumerate(foes))
            self.look()
        return sent

    # ---- the besieged

    def look(self) -> None:
        """Whether all are there still."""
        if self.board[Place.FAILED]:
            self.complaints.append("somebody met with an error")
        for target in self.targets:
            try:
                look_at(target.os_pid)
            except FileNotFoundError:
                self.complaints.append(f"VMID {target.vmid} has ended")
        for child in self.bystanders:
            try:
                look_at(child.os_pid)
            except FileNotFoundError:
                self.complaints.append(f"bystander {child.vmid} has ended")

    def await_work(self) -> None:
        """Until both bystanders have been answered twice more."""
        before = [self.board[Place.DONE + place] for place in range(2)]
        deadline = time.monotonic() + SETTLING_S
        while any(self.board[Place.DONE + i] < n + 2 for i, n in enumerate(before)):
            if time.monotonic() > deadline or self.complaints:
                self.complaints.append("the bystanders are not answered any more")
                return
            time.sleep(0.01)
            self.look()
        peers = [self.victim.vmid, *(child.vmid for child in self.bystanders[:1])]
        child = self.group.spawn(newcomer, self.group, self.board, peers)
        try:
            status = child.wait(ENDING_S)
            if status.code:
                self.complaints.append(f"a newcomer is not answered: {status}")
        except IpcError as error:
            self.complaints.append(f"a newcomer is not answered: {error}")
            _kill(child)

    def gauges(self) -> dict[str, Gauge]:
        names = ("victim", "leader")
        return {
            name: look_at(target.os_pid) for name, target in zip(names, self.targets, strict=True)
        }

    def settled_growth(self, since: dict[str, Gauge]) -> dict[str, Gauge]:
        """What has grown for good: looked at until it is little, or for long enough."""
        deadline = time.monotonic() + SETTLING_S
        while True:
            grown = {name: now.growth(since[name]) for name, now in self.gauges().items()}
            much = [name for name, growth in grown.items() if _is_much(growth)]
            if not much or time.monotonic() > deadline:
                self.complaints += [f"the {name} has grown: {grown[name]}" for name in much]
                return grown
            time.sleep(0.05)

    def end(self) -> None:
        self.board[Place.STOP] = 1
        for child in (*self.bystanders, self.victim):
            try:
                status = child.wait(ENDING_S)
            except IpcError:
                self.complaints.append(f"VMID {child.vmid} does not end")
                _kill(child)
                continue
            if status.code:
                self.complaints.append(f"VMID {child.vmid} ended with {status}")


def _is_much(growth: Gauge) -> bool:
    return (
        growth.private > MOST_KIB
        or growth.descriptors > MOST_DESCRIPTORS
        or growth.threads > MOST_THREADS
    )


def _kill(child: Child) -> None:
    child.kill(signal.SIGKILL)
    child.wait(ENDING_S)


def _attack(
    group: Group, board: Board, kind: Kind, target: Target, seed: int, count: int, place: int
) -> None:
    """What runs in an attacker."""
    logging.getLogger("libos_ipc").handlers[:] = [logging.NullHandler()]
    if not kind.member:
        group.close()
    foe = Foe(group, board, target, seed, place)
    kind.run(foe, count)
    foe.wires.close()
    os._exit(0)  # without a goodbye


def besiege(
    kind: Kind,
    count: int,
    seed: int,
    transport: str = "native",
    leader: Literal["process", "embedded"] = "process",
    most_s: float = math.inf,
) -> Outcome:
    """So many misdeeds of one kind, or what of them is done in `most_s` seconds."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    home = Path(tempfile.mkdtemp(prefix="si-", dir=place))
    (home / "file").touch()
    config = GroupConfig(transport=transport, fork_timeout=5.0)
    board = Board()
    begun = time.monotonic()
    try:
        with recorded(), hushed(board):
            with Group.create("s", runtime_dir=home, config=config, leader=leader) as group:
                siege = _Siege(group, board, kind, seed, home)
                siege.until = begun + most_s
                sent, growth, complaints = _besiege(siege, count)
            deeds = board[Place.DONE] + board[Place.DONE + 1]
            worst = max(board[Place.WORST_NS], board[Place.WORST_NS + 1]) / 1e9
            noted, refused = board[Place.NOTED], board[Place.REFUSED]
    finally:
        board.close()
        shutil.rmtree(home, ignore_errors=True)
    seconds = time.monotonic() - begun
    return Outcome(kind.name, sent, seconds, deeds, worst, noted, refused, growth, complaints)


def _besiege(siege: _Siege, count: int) -> tuple[int, dict[str, Gauge], list[str]]:
    """Misdeeds done, what has grown by them, and what went wrong."""
    sent, grown = 0, {}
    try:
        siege.await_work()
        sent = siege.attack_all(max(1, int(count * WARM_UP)))
        siege.await_work()
        before = siege.gauges()
        sent += siege.attack_all(count - sent)
        siege.await_work()
        grown = siege.settled_growth(before)
    except FileNotFoundError as error:
        siege.complaints.append(f"somebody has ended: {error}")
    finally:
        siege.end()
    return sent, grown, siege.complaints
