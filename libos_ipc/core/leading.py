"""The leader within a member: what goes to it, and how its decisions go out.

A *step* of the leader is all that one input makes it decide. It is written as one record, ahead of
everything else: what changes, the answers that tell of it, and of which message it came. So
a successor finds all of a step or nothing (`answered.py`).
"""

from __future__ import annotations

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.mesh import Mesh
from libos_ipc.core.vocabulary import Answer, Body, Effects, Journal, Refuse, Say

__all__ = ["Leading"]


class Leading(Mesh):
    """A member's links, and the leader's machine if it is here."""

    leader: Leader | None

    def answer(self, dst: int, seq: int, body: Body, now: float, of: int = 0) -> Effects:
        """Answer request `seq` of `dst`. Nothing happens if that process is gone."""
        raise NotImplementedError

    def refuse(self, dst: int, seq: int, number: int, text: str, now: float) -> Effects:
        """Answer request `seq` of `dst` with an error."""
        raise NotImplementedError

    def send(self, dst: int, code: int, body: Body, now: float) -> Effects:
        """Send a message that wants no answer."""
        raise NotImplementedError

    def _begin_to_say(self) -> None:
        raise NotImplementedError

    def _said(self, now: float) -> Effects:
        raise NotImplementedError

    def lead(self, effects: Effects, now: float) -> Effects:
        """Turn what the leader's machine wants said into messages."""
        return self._lead(effects, now)

    def _ask_own_leader(self, src: int, code: int, seq: int, body: Body, now: float) -> Effects:
        assert self.leader is not None
        assert isinstance(body, tuple)
        link = self.links.get(src)
        if link is not None:
            self.leader.answered.on_acknowledged(src, link.acked)
        wanted = self.leader.on_request(src, code, seq, body, now)
        return self._lead(wanted, now, self._cause(src))

    def _cause(self, src: int) -> tuple[int, ...]:
        """The message of this process that is being taken up, unless it is ourselves."""
        link = self.links.get(src)
        return () if link is None else (src, link.delivered)

    def _lead(self, effects: Effects, now: float, cause: tuple[int, ...] = ()) -> Effects:
        assert self.leader is not None
        answered = self.leader.answered
        said: Effects = []
        self._begin_to_say()
        for effect in self._written(effects, cause):
            if isinstance(effect, Answer | Refuse):
                dst, seq = effect.dst, effect.seq
                if isinstance(effect, Answer):
                    said += self.answer(dst, seq, effect.fields, now, effect.of)
                else:
                    said += self.refuse(dst, seq, effect.errno, effect.text, now)
                link = self.links.get(dst)
                answered.on_sent(dst, seq, 0 if link is None else link.sent)
            elif isinstance(effect, Say):
                said += self.send(effect.dst, effect.code, effect.fields, now)
            else:
                said.append(effect)
        return said + self._said(now)

    def _written(self, effects: Effects, cause: tuple[int, ...]) -> Effects:
        """The step with one record in front, if there is anything to record."""
        assert self.leader is not None
        records = tuple(effect.record for effect in effects if isinstance(effect, Journal))
        if not records:
            return effects
        answers = tuple(
            (effect.dst, effect.seq, effect.of, effect.fields)
            if isinstance(effect, Answer)
            else (effect.dst, effect.seq, int(Code.ERROR), (effect.errno, effect.text))
            for effect in effects
            if isinstance(effect, Answer | Refuse)
        )
        told = self.leader.record_told(answers, cause)
        rest = [effect for effect in effects if not isinstance(effect, Journal)]
        return [Journal(("step", records, *told)), *rest]
