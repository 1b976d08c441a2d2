"""The leader within a member: what goes to it, and how its decisions go out.

A *step* of the leader is all that one input makes it decide. It is written as one record, ahead of
everything else: what changes, the answers that tell of it, and of which message it came. So
a successor finds all of a step or nothing (`answered.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.links import Link
from libos_ipc.core.mesh import Mesh
from libos_ipc.core.signals import KIND_BITS
from libos_ipc.core.vocabulary import (
    Answer,
    Body,
    Confirm,
    Effect,
    Effects,
    Journal,
    Outgoing,
    Own,
    Refuse,
    Say,
    Told,
    make,
)

__all__ = ["Leading"]

_ERROR = int(Code.ERROR)


class Leading(Mesh):
    """A member's links, and the leader's machine if it is here."""

    #: the numbers of signals that were relayed, by receiver, until they are known to have arrived
    _relayed: dict[int, deque[int]]
    leader: Leader | None
    #: what is to be said to processes that do not know yet that we lead, by VMID
    away: dict[int, Effects]

    def answer(self, dst: int, seq: int, body: Body, now: float, of: int = 0) -> Effects:
        """Answer request `seq` of `dst`. Nothing happens if that process is gone."""
        raise NotImplementedError

    def refuse(self, dst: int, seq: int, number: int, text: str, now: float) -> Effects:
        """Answer request `seq` of `dst` with an error."""
        raise NotImplementedError

    def send(self, dst: int, code: int, body: Body, now: float) -> Effects:
        """Send a message that wants no answer."""
        raise NotImplementedError

    def _receive(self, src: int, code: int, seq: int, body: Body, now: float) -> Effects:
        raise NotImplementedError

    def _reply(self, dst: int, message: Outgoing, now: float) -> Effects:
        raise NotImplementedError

    def lead(self, effects: Effects, now: float) -> Effects:
        """Turn what the leader's machine wants said into messages."""
        return self._lead(effects, now)

    def _ask_own_leader(self, src: int, code: int, seq: int, body: Body, now: float) -> Effects:
        leader, link = self.leader, self.links.get(src)
        assert leader is not None
        assert isinstance(body, tuple)
        if link is not None:
            leader.answered.on_acknowledged(src, link.acked)
        if code == Code.PID_KILL:
            leader.signal_desk.unheard = self._unheard
        wanted = leader.on_request(src, code, seq, body, now)
        return self._lead(wanted, now, link)

    def _lead(self, effects: Effects, now: float, cause: Link | None = None) -> Effects:
        """Perform a step of the leader; `cause`: it comes of the last message on this link."""
        said: Effects = []
        written = False
        told: list[Told] = []
        for effect in effects:
            if isinstance(effect, Journal):
                effects, written = self._written(effects, cause, told), True
                break
        else:
            if effects:
                said.append(make(Confirm, (told,)))
        for effect in effects:
            if isinstance(effect, Answer | Refuse | Say):
                if effect.dst in self.away:
                    self._hold(effect)
                elif effect.dst == self.vmid:
                    said.append(Own(_message(effect)))
                else:
                    said += self._tell(effect, written, now)
                    if effect.dst in self.links:
                        told.append(make(Told, (effect.dst, self.links[effect.dst].sent)))
            else:
                said.append(effect)
        return said

    def take_back(self, effects: Iterable[Effect]) -> None:
        """These were to be performed, and nothing of it can be: others lead. What has its number
        already must not go out when it is sent again."""
        for effect in effects:
            if isinstance(effect, Journal | Confirm):
                for peer, number in effect.told:
                    link = self.links.get(peer)
                    if link is not None:
                        link.revoke(number)

    def _unheard(self, vmid: int) -> int:
        """Signals relayed to `vmid` that it has not acknowledged."""
        relayed, link = self._relayed.get(vmid), self.links.get(vmid)
        if relayed is None:
            return 0
        while relayed and (link is None or relayed[0] <= link.acked):
            relayed.popleft()
        return len(relayed)

    def _hold(self, effect: Answer | Refuse | Say) -> None:
        """It would not be believed yet. What it waits for, it asks for again; relays are kept with
        the answers."""
        if isinstance(effect, Say) and effect.code != Code.PID_KILL:
            self.away[effect.dst].append(effect)

    def _tell(self, effect: Answer | Refuse | Say, written: bool, now: float) -> Effects:
        dst, message = effect.dst, _message(effect)
        if isinstance(effect, Say):
            said = self.send(dst, message.code, message.body, now)
            if message.code == Code.PID_KILL and dst in self.links:
                self._relayed.setdefault(dst, deque()).append(self.links[dst].sent)
                self._on_answered(dst, -_relay(effect.fields))
            return said
        said = self._reply(dst, message, now)
        if written:
            self._on_answered(dst, message.seq)
        return said

    def on_own(self, message: Outgoing, now: float) -> Effects:
        """All that was decided before it is written, and performed."""
        if message.seq:
            effects = self._reply(self.vmid, message, now)
            if self.leader is not None:
                self._on_answered(self.vmid, message.seq)
            return effects
        return self.send(self.vmid, message.code, message.body, now)

    def _on_answered(self, dst: int, seq: int) -> None:
        assert self.leader is not None
        link = self.links.get(dst)
        self.leader.answered.on_sent(dst, seq, 0 if link is None else link.sent)

    def _written(self, effects: Effects, cause: Link | None, told: list[Told]) -> Effects:
        """The step with one record in front."""
        assert self.leader is not None
        records, answers = [], []
        rest: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Journal):
                records.append(effect.record)
                continue
            rest.append(effect)
            if isinstance(effect, Answer):
                answers.append(tuple(effect))
            elif isinstance(effect, Say) and effect.code == Code.PID_KILL:
                answers.append((effect.dst, -_relay(effect.fields), effect.code, effect.fields))
            elif isinstance(effect, Refuse):
                answers.append((effect.dst, effect.seq, _ERROR, (effect.errno, effect.text)))
        came = () if cause is None else (cause.peer, self.epoch, cause.delivered)
        received = self.leader.answered.take_received()
        self.leader.apply_told(answers, came, received)  # type: ignore[arg-type]
        return [make(Journal, (("step", records, answers, came, received), told)), *rest]


def _relay(fields: tuple[Any, ...]) -> int:
    """The number of a signal that is relayed, 0 if it has none."""
    return int(fields[-1]) >> KIND_BITS


def _message(effect: Answer | Refuse | Say) -> Outgoing:
    if isinstance(effect, Answer):
        return make(Outgoing, (Code.RESP, effect.seq, effect.fields, effect.of))
    if isinstance(effect, Refuse):
        return Outgoing(Code.ERROR, effect.seq, (effect.errno, effect.text))
    return make(Outgoing, (effect.code, 0, effect.fields, 0))
