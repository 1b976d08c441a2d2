"""Signals from member to member: who may send them, and what waits to be handled.

Every member catches some numbers with handlers of the group; the leader knows which. A number
that the target catches comes as a message, with its sender, and waits in a queue here until the
main thread takes it. All others are the kernel's business, and never come this far, but when
the sender's knowledge was out of date: then the process sends itself the kernel's signal.

What a message says of its sender is believed when the leader has confirmed that this pid is
the sending process's own. Until that word has come, signals of that sender wait in the order
of their arrival. A relay by the leader has been checked there, and names the original sender.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection
from typing import TypeAlias

from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import Body, Effects, SignalInfo, Signalled, Then
from libos_ipc.errors import IpcError

__all__ = [
    "FIRST_REAL_TIME",
    "KIND_BITS",
    "LAST_SIGNAL",
    "RELAYS",
    "Inbox",
    "Kind",
    "Pending",
    "may_signal",
    "numbered",
]

LAST_SIGNAL = 64
#: From here on signals queue instead of merging.
FIRST_REAL_TIME = 32
#: Signals that may wait in one process; of more, only standard ones that do not yet wait.
MOST_PENDING = 4096

#: Types of a signal on the wire: to a thread, a process, a process group, everybody.
Kind = ("thread", "process", "group", "all")
#: In two bits; the others number what a leader relays, so that a successor may say it again.
KIND_BITS = 2
#: Numbers of relays go round here, and leave 0 out.
RELAYS = 1 << 30

Ask: TypeAlias = Callable[[Code, tuple[object, ...], Then, float], Effects]
Reply: TypeAlias = Callable[[int, int, int, float], Effects]


def may_signal(sender_uid: int, target_uid: int) -> bool:
    """Whether a process of one user may signal one of another."""
    return sender_uid in (0, target_uid)


def _kind_of(packed: int) -> tuple[int, int]:
    """The type of a signal, and the number of the relay, 0 if it is none."""
    return packed & ((1 << KIND_BITS) - 1), packed >> KIND_BITS


def numbered(kind: int, relay: int) -> int:
    """The reverse."""
    return kind | relay << KIND_BITS


class Pending:
    """Signals that have come and that nobody has handled.

    A signal handler may run between any two steps of another thread, or of its own, so each
    method changes the tables in single steps and needs no lock.
    """

    __slots__ = ("_real_time", "_standard")

    def __init__(self) -> None:
        self._standard: dict[int, SignalInfo] = {}
        self._real_time: dict[int, deque[SignalInfo]] = {}  # of numbers that have ever come

    def arrive(self, sig: int, info: SignalInfo) -> bool:
        """Enter a signal. False if it merges with one that waits already, or there are too many."""
        if sig < FIRST_REAL_TIME:
            return self._standard.setdefault(sig, info) is info
        queue = self._real_time.setdefault(sig, deque())
        if len(queue) >= MOST_PENDING:
            return False
        queue.append(info)
        return True

    def has(self, sigs: Collection[int]) -> bool:
        """Whether one of these waits."""
        return any(sig in self._standard or self._real_time.get(sig) for sig in sigs)

    def take(self, sigs: Collection[int]) -> tuple[int, SignalInfo] | None:
        """The next one with a number in `sigs`: the lowest number first, each in its order."""
        for sig in sorted(sigs):
            info = self._standard.pop(sig, None)
            if info is not None:
                return sig, info
            try:
                return sig, self._real_time[sig].popleft()
            except (KeyError, IndexError):
                continue
        return None


class Inbox:
    """What others send to one process, until its sender is known for sure.

    `ask` sends a request to the leader, `reply` a result to a requester.
    """

    __slots__ = (
        "_ask",
        "_confirmed",
        "_last_relay",
        "_me",
        "_reply",
        "_waiting",
        "leader",
        "pid",
        "uid",
    )

    def __init__(self, me: int, leader: int, ask: Ask, reply: Reply) -> None:
        self._me = me
        self.leader = leader
        self._last_relay = 0
        self._ask = ask
        self._reply = reply
        #: our own pid in the group, and our user
        self.pid = 0
        self.uid = -1
        self._confirmed: dict[tuple[int, int], int] = {}  # (VMID, its pid) -> uid
        #: number of the request, its fields, and whether it came from who led then
        self._waiting: dict[tuple[int, int], list[tuple[int, tuple[int, ...], bool]]] = {}

    def on_kill(self, src: int, seq: int, body: Body, now: float) -> Effects:
        """PID_KILL for this process."""
        assert isinstance(body, tuple)
        sender, pid, id, sig, kind = body
        kind, relay = _kind_of(kind)  # type: ignore[arg-type]
        if relay and (src != self.leader or not self._is_new(relay)):
            return self._reply(src, seq, -errno.EINVAL, now)
        body = (sender, pid, id, sig, kind)
        if not 0 <= sig <= LAST_SIGNAL or not 0 <= kind < len(Kind):  # type: ignore[operator]
            return self._reply(src, seq, -errno.EINVAL, now)
        if kind <= 1 and pid != self.pid:
            return self._reply(src, seq, -errno.ESRCH, now)
        if kind > 1 and src != self.leader:
            return self._reply(src, seq, -errno.EPERM, now)
        key = src, int(sender)  # type: ignore[call-overload]
        entry = (seq, body, src == self.leader)
        if src == self._me and sender == self.pid:
            return self._accept(src, entry, self.uid, now)  # type: ignore[arg-type]
        if key in self._confirmed:
            return self._accept(src, entry, self._confirmed[key], now)  # type: ignore[arg-type]
        waiting = self._waiting.setdefault(key, [])
        waiting.append(entry)  # type: ignore[arg-type]
        if len(waiting) > 1:
            return []
        return self._ask(Code.GET_PROCESS, (sender,), lambda a, t: self._on_sender(key, a, t), now)

    def _is_new(self, relay: int) -> bool:
        """Whether a relay was not said by the leader before this one already."""
        if (relay - self._last_relay) % RELAYS >= RELAYS // 2 or relay == self._last_relay:
            return False
        self._last_relay = relay
        return True

    def on_gone(self, peer: int) -> None:
        """A process is gone: its pid may be another's one day."""
        for key in [key for key in self._confirmed if key[0] == peer]:
            del self._confirmed[key]

    def _on_sender(self, key: tuple[int, int], answer: Body | IpcError, now: float) -> Effects:
        src = key[0]
        vmid, uid = 0, -1
        if not isinstance(answer, IpcError):
            vmid, uid = int(answer[1]), int(answer[5])  # type: ignore[call-overload]
        entries = self._waiting.pop(key, [])
        if src == vmid and src != self.leader:
            self._confirmed[key] = uid
        effects: Effects = []
        for entry in entries:
            if src == vmid or entry[2]:
                effects += self._accept(src, entry, uid, now)
            else:
                effects += self._reply(src, entry[0], -errno.EPERM, now)
        return effects

    def _accept(
        self, src: int, entry: tuple[int, tuple[int, ...], bool], uid: int, now: float
    ) -> Effects:
        seq, (sender, _, _, sig, kind), by_leader = entry
        if not by_leader and not may_signal(uid, self.uid):
            return self._reply(src, seq, -errno.EPERM, now)
        effects = self._reply(src, seq, 0, now)
        if sig:
            effects.append(Signalled(sig, SignalInfo(sender, uid, Kind[kind])))
        return effects
