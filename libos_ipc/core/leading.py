"""The leader within a member: what goes to it, and how its decisions go out.

A *step* of the leader is all that one input makes it decide. It is written as one record, ahead of
everything else: what changes, the answers that tell of it, and of which one-way word it came. So
a successor finds all of a step or nothing (`answered.py`).
"""

from __future__ import annotations

from collections import deque

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.links import Link
from libos_ipc.core.mesh import Mesh
from libos_ipc.core.vocabulary import Answer, Body, Effect, Effects, Journal, Refuse, Say, make

__all__ = ["Leading"]

_ERROR = int(Code.ERROR)


class Leading(Mesh):
    """A member's links, and the leader's machine if it is here."""

    #: the numbers of signals that were relayed, by receiver, until they are known to have arrived
    _relayed: dict[int, deque[int]]
    leader: Leader | None
    #: how many lists of words are being said, one within the other
    _saying: int

    def answer(self, dst: int, seq: int, body: Body, now: float, of: int = 0) -> Effects:
        """Answer request `seq` of `dst`. Nothing happens if that process is gone."""
        raise NotImplementedError

    def refuse(self, dst: int, seq: int, number: int, text: str, now: float) -> Effects:
        """Answer request `seq` of `dst` with an error."""
        raise NotImplementedError

    def send(self, dst: int, code: int, body: Body, now: float) -> Effects:
        """Send a message that wants no answer."""
        raise NotImplementedError

    def _said(self, now: float) -> Effects:
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
        return self._lead(wanted, now, None if seq else link)

    def _lead(self, effects: Effects, now: float, cause: Link | None = None) -> Effects:
        """Perform a step of the leader; `cause`: it comes of the last word on this link."""
        said: Effects = []
        self._saying += 1
        written = False
        for effect in effects:
            if isinstance(effect, Journal):
                effects, written = self._written(effects, cause), True
                break
        for effect in effects:
            if isinstance(effect, Answer):
                said += self.answer(effect.dst, effect.seq, effect.fields, now, effect.of)
                if written:
                    self._on_answered(effect.dst, effect.seq)
            elif isinstance(effect, Refuse):
                said += self.refuse(effect.dst, effect.seq, effect.errno, effect.text, now)
                if written:
                    self._on_answered(effect.dst, effect.seq)
            elif isinstance(effect, Say):
                said += self.send(effect.dst, effect.code, effect.fields, now)
                if effect.code == Code.PID_KILL and effect.dst in self.links:
                    relayed = self._relayed.setdefault(effect.dst, deque())
                    relayed.append(self.links[effect.dst].sent)
            else:
                said.append(effect)
        return said + self._said(now)

    def _unheard(self, vmid: int) -> int:
        """Signals relayed to `vmid` that it has not acknowledged."""
        relayed, link = self._relayed.get(vmid), self.links.get(vmid)
        if relayed is None:
            return 0
        while relayed and (link is None or relayed[0] <= link.acked):
            relayed.popleft()
        return len(relayed)

    def _on_answered(self, dst: int, seq: int) -> None:
        assert self.leader is not None
        link = self.links.get(dst)
        self.leader.answered.on_sent(dst, seq, 0 if link is None else link.sent)

    def _written(self, effects: Effects, cause: Link | None) -> Effects:
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
            elif isinstance(effect, Refuse):
                answers.append((effect.dst, effect.seq, _ERROR, (effect.errno, effect.text)))
        came = () if cause is None else (cause.peer, self.epoch, cause.delivered)
        received = self.leader.answered.take_received()
        self.leader.apply_told(answers, came, received)  # type: ignore[arg-type]
        return [make(Journal, (("step", records, answers, came, received),)), *rest]
