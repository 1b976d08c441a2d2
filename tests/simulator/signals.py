"""What programs do with signals, process groups and entries; and what must hold of signals.

A signal that goes as a message arrives once, in order per pair of processes, under its sender's
true name; one to a group or to everybody arrives at most once at each process. What goes by way
of the kernel is not simulated.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import Signalled

from .threads import Running, Wait

if TYPE_CHECKING:
    from .node import SimNode
    from .world import World

__all__ = ["SignalHistory", "Signalling"]

#: Numbers that the programs of the simulation use: two standard ones and some that queue.
NUMBERS = (10, 12, 34, 35, 36)


class SignalHistory:
    """Signals sent and received, of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: sent to one process: (from, to) -> numbers in order, and how many of them came
        self.sent: dict[tuple[int, int], list[int]] = {}
        self.come: dict[tuple[int, int], int] = {}
        #: sent to many: (sender's pid, number, type) -> how often; to a VMID -> how often it came
        self.relayed: Counter[tuple[int, int, str]] = Counter()
        self.received: Counter[tuple[int, int, int, str]] = Counter()

    def on_signalled(self, node: SimNode, effect: Signalled) -> None:
        """A machine hands a signal out."""
        sig, (sender, uid, kind) = effect
        self._world.say("signalled", node.vmid, sig, sender, kind)
        leader = self._world.leader
        assert leader is not None
        asked_in_vain = leader.dead or node.goodbye_said or self._world.history.closing is node
        assert uid == 0 or asked_in_vain, effect
        if kind == "process":
            self._next(node.vmid, sender, sig)
            return
        key = (sender, sig, kind)
        self.received[(node.vmid, *key)] += 1
        assert self.received[(node.vmid, *key)] <= self.relayed[key], f"{effect} was never sent"

    def _next(self, vmid: int, sender: int, sig: int) -> None:
        for (source, target), numbers in self.sent.items():
            at = self.come.get((source, target), 0)
            if target == vmid and numbers[at : at + 1] == [sig] and self._had(source, sender):
                self.come[source, target] = at + 1
                return
        raise AssertionError(f"signal {sig} of {sender} to VMID {vmid} out of turn or never sent")

    def _had(self, vmid: int, pid: int) -> bool:
        return self._world.history.pids.get(vmid) == pid

    def check_rest(self) -> None:
        """Between two living processes nothing is lost."""
        nodes = self._world.nodes
        if self._world.leader is None or self._world.leader.dead:
            return  # who the sender is could not be asked
        for (source, target), numbers in self.sent.items():
            if source in nodes and target in nodes:
                come = self.come.get((source, target), 0)
                assert come == len(numbers), f"signals {numbers[come:]} of {source} to {target}"


class Signalling:
    """The calls of one node's program."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._world = node.world

    def ask(self, code: Code, *fields: object) -> Running:
        """A request to the leader whose answer only has to come."""
        ticket = self._node.program._ask(code, *fields)  # type: ignore[arg-type]
        yield Wait(ticket.settled, None, ticket)

    def kill(self, pid: int, sig: int) -> Running:
        """`Group.kill`."""
        node = self._node
        ticket = node.program._ask(Code.GET_PROCESS, pid)
        yield Wait(ticket.settled, None, ticket)
        if ticket.error is not None:
            return
        result, vmid, target, *_, caught = ticket.payload  # type: ignore[misc]
        assert isinstance(vmid, int)
        if result or target != pid or not int(caught) >> sig & 1:  # type: ignore[call-overload]
            return
        history = self._world.history.signals
        history.sent.setdefault((node.vmid, vmid), []).append(sig)
        fields = (node.identity.pid, pid, pid, sig, 1)
        node.perform(node.member.send(vmid, Code.PID_KILL, fields, self._world.now))

    def kill_many(self, id: int, sig: int, kind: int) -> Running:
        """`Group.killpg` and `Group.kill_all`."""
        pid = self._node.identity.pid
        self._world.history.signals.relayed[pid, sig, "group" if kind == 2 else "all"] += 1
        yield from self.ask(Code.PID_KILL, pid, 0, id, sig, kind)
