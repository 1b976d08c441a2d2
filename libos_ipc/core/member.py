"""One process's part in the group: its links, its requests, and who gets what arrives.

The dispatch table of a member. It knows the machines and connects them; the decisions are
theirs. A message to ourselves takes the same way as any other, less the link.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

from libos_ipc._native import DRAINED, NEXT
from libos_ipc.core.allegiance import ASKED_OF_LEADER, NOBODY, Allegiance, is_for_leader
from libos_ipc.core.calls import Calls, DecodeAnswer
from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.lanes import Lanes
from libos_ipc.core.leader import LEADER_CODES, Leader
from libos_ipc.core.links import Link, weight
from libos_ipc.core.local_ids import LocalIds
from libos_ipc.core.provision import Provision
from libos_ipc.core.signals import Inbox
from libos_ipc.core.sync_desk import WORD_OF
from libos_ipc.core.sync_end import FROM_SERVER, SyncEnd
from libos_ipc.core.vocabulary import (
    Body,
    ChildExit,
    ChildJoined,
    Close,
    Delegated,
    Effect,
    Effects,
    Fail,
    GetMeta,
    HandleDropped,
    InTurns,
    LookForEpoch,
    Message,
    Note,
    Outgoing,
    PgidChanged,
    Progress,
    Recalled,
    Resolve,
    Then,
    Withdraw,
    make,
)
from libos_ipc.errors import IpcError, PeerDied

__all__ = ["ACK_EVERY", "Member"]

#: Received messages after which an acknowledgement is sent although nothing goes the other way.
ACK_EVERY = 256


class Member(Allegiance):
    """The state of one process in one group. Not thread-safe: its owner holds one lock."""

    def __init__(
        self,
        vmid: int,
        *,
        leader_vmid: int,
        epoch: int,
        send_buffer: int,
        quarantine_s: float,
        decode_answer: DecodeAnswer,
        leader: Leader | None = None,
        max_value: int = 2**26,
        lane_after: int = 0,
        decode_body: Callable[[int, bytes], Body] = lambda code, payload: payload,
    ) -> None:
        super().__init__(vmid, epoch, send_buffer, lane_after)
        self.lanes = Lanes(vmid, self.links, self._numbered)
        self.leader_vmid = leader_vmid
        self.leader = leader
        self.away = {}
        self.decode_body = decode_body
        self.calls = Calls(decode_answer)
        self.ids = LocalIds(quarantine_s=quarantine_s)
        self.provision = Provision(self.ids, self._ask_leader)
        self.sync = SyncEnd(max_value, self._tell_leader, self._ask_leader)
        self._relayed = {}
        self.inbox = Inbox(vmid, leader_vmid, self._ask_leader, self._result_of_kill)
        self._on_own: dict[int, Callable[[int, int, Body, float], Effects]] = {
            Code.RESP: self.calls.on_answer,
            Code.ERROR: self.calls.on_refusal,
            Code.CREDIT: lambda src, seq, *rest: self._on_credit(self.links[src], seq, *rest),
            Code.CANCEL: self._on_cancel,
            Code.CHILDEXIT: self._on_child_exit,
            Code.CHILD_JOINED: partial(self._on_leaders_word, ChildJoined),
            Code.PID_KILL: self._on_kill,
            Code.PID_GETMETA: self._on_get_meta,
            Code.PING: lambda src, seq, _, now: self.answer(src, seq, (), now, Code.PING),
            Code.PGID_CHANGED: partial(self._on_leaders_word, PgidChanged),
            Code.HANDLE_DROPPED: partial(self._on_leaders_word, lambda *key: HandleDropped(key)),
            Code.FILE_DELEGATED: partial(self._on_leaders_word, Delegated),
            Code.FILE_RECALLED: partial(self._on_leaders_word, Recalled),
            Code.FILE_IN_TURNS: partial(self._on_leaders_word, InTurns),
            Code.BACK: self._on_back,
            Code.NEW_EPOCH: lambda src, *rest: [LookForEpoch(src)],
            **{code: partial(self._on_sync, code) for code in FROM_SERVER},
            **self.lanes.on_code,
        }
        self._on_code: dict[int, Callable[[Link, int, Body, float], Effects]] = {
            Code.ACK: self._on_ack,
            Code.CREDIT: self._on_credit,
            Code.PROBE: self._on_probe,
        }

    # ---- what the program asks

    def request(
        self, dst: int, code: int, body: Body, ticket: object, now: float
    ) -> tuple[int, Effects]:
        """Send a request; `ticket` is resolved or failed later. Gives its sequence number."""
        if code in ASKED_OF_LEADER and dst == self.leader_vmid:
            seq = self.calls.add_kept(dst if self.is_heard else NOBODY, code, ticket, body)
        else:
            seq = self.calls.add(dst, code, ticket)
        return seq, self._dispatch(dst, make(Outgoing, (code, seq, body, 0)), now)

    def send(self, dst: int, code: int, body: Body, now: float) -> Effects:
        """Send a message that wants no answer."""
        return self._dispatch(dst, make(Outgoing, (code, 0, body, 0)), now)

    def answer(self, dst: int, seq: int, body: Body, now: float, of: int = 0) -> Effects:
        """Answer request `seq` of `dst`. Nothing happens if that process is gone."""
        return self._reply(dst, make(Outgoing, (Code.RESP, seq, body, of)), now)

    def refuse(self, dst: int, seq: int, number: int, text: str, now: float) -> Effects:
        """Answer request `seq` of `dst` with an error."""
        return self._reply(dst, Outgoing(Code.ERROR, seq, (number, text)), now)

    def withdraw(self, seq: int, now: float) -> Effects:
        """Nobody waits for request `seq` any more: forget it, and tell the other side."""
        peer = self.calls.withdraw(seq)
        if peer is None:
            return []
        return self.send(peer or self.leader_vmid, Code.CANCEL, (seq,), now)

    def move_id(self, id: int, owner: int, ticket: object, now: float) -> Effects:
        """Hand an ID over to another process; `ticket` is settled with the leader's word.

        What this process knows of its own IDs changes with that word, at once and also when the
        caller has stopped waiting for it: so it is not withdrawn.
        """

        def then(answer: Body | IpcError, now: float) -> Effects:
            if isinstance(answer, IpcError):
                return [Fail(ticket, answer)]
            if answer[0] == 0 and owner != self.vmid:
                self.ids.moved_away(id)
            return [Resolve(ticket, answer)]

        return self._ask_leader(Code.CHANGE_ID_OWNER, (id, owner), then, now)

    def consumed(self, src: int, size: int) -> bool:
        """The program has taken up a message of `src`. True if that is to be announced.

        A single step of the ledger, so that it needs no lock.
        """
        link = self.links.get(src)
        return link is not None and link.consume(size, self.send_buffer // 4)

    def announce_credit(self, src: int, now: float) -> Effects:
        """Tell `src` how much has been taken up."""
        link = self.links.get(src)
        return [] if link is None else self.send(src, Code.CREDIT, (link.credit(),), now)

    def on_tick(self, now: float) -> tuple[Effects, bool]:
        """Say what is overdue, and do what nobody asks for. True if another tick is needed."""
        effects, again = super().on_tick(now)
        more, once_more = self.provision.on_tick(now)
        effects, again = effects + more, again or once_more
        if self.leader is not None:
            more, once_more = self.leader.on_tick(now)
            effects += self._lead(more, now)
            again = again or once_more
        return effects, again

    # ---- what comes

    def on_hello(self, src: int, now: float) -> Effects:
        """A connection of `src` has been identified."""
        if src not in self.links:
            self.links[src] = Link(src)
        return []

    def on_message(
        self, src: int, number: int, acked: int, code: int, seq: int, body: Body, now: float
    ) -> Effects:
        """A message of an identified peer. The fields of the library's own are decoded."""
        link = self.links.get(src)
        if link is None:
            return []
        effects: Effects = []
        try:
            found = link.receive(number, acked, weight(code, body), now)
            if found & DRAINED:
                effects.append(make(Progress, (src,)))
            if found & NEXT:
                effects += self._receive(src, code, seq, body, now)
                if link.ack_due(ACK_EVERY):
                    effects += self._unnumbered(link, Code.ACK)
            elif number:
                effects += self._on_out_of_turn(link, number)
            elif code in self._on_code:
                effects += self._on_code[code](link, seq, body, now)
            else:
                effects.append(Note("unnumbered", {"peer": src, "code": code}))
        except ValueError as error:
            effects.append(Note("absurd", {"peer": src, "error": str(error)}))
        return effects

    def on_malformed(
        self, src: int, number: int, acked: int, code: int, seq: int, reason: str, now: float
    ) -> Effects:
        """A message whose payload does not fit its code: an error answer, nothing else."""
        effects = self.on_message(src, number, acked, Code.ACK, 0, (), now)
        effects.append(Note("malformed", {"peer": src, "code": code, "reason": reason}))
        if seq and code not in (Code.RESP, Code.ERROR):
            effects += self.refuse(src, seq, errno.EPROTO, reason, now)
        return effects

    def on_gone(self, peer: int, now: float) -> Effects:
        """`peer` has died, left or exec'ed: everything outstanding there fails, unless that is the
        leader's to do, whoever leads next. A parent's part is the leader's from now on."""
        if peer == self.leader_vmid and self.leader is None:
            return self._on_leader_gone(now)
        untold = self.untold_exits(peer)
        effects: Effects = [Close(peer)] if self.drop_link(peer) else []
        effects += self.calls.fail_peer(peer, _gone_error(peer), now)
        self.inbox.on_gone(peer)
        self._relayed.pop(peer, None)
        self.away.pop(peer, None)
        for message in untold:
            effects += self._dispatch(self.leader_vmid, self._readable(message), now)
        effects.append(Progress(peer))
        return effects

    def check(self) -> None:
        """Assert the invariants of all machines."""
        for link in self.links.values():
            link.check()
        self.ids.check()
        if self.leader is not None:
            self.leader.check()

    # ---- sending

    def _dispatch(self, dst: int, message: Outgoing, now: float) -> Effects:
        if dst == self.leader_vmid and self._is_put_off(message):
            return self._say_later(message, now)
        if dst == self.vmid:
            to_us = message.code == Code.PID_KILL and self._is_to_us(message.body)  # type: ignore[arg-type]
            if self.leader is not None and is_for_leader(message) and not to_us:
                return self._say_to_ourselves(message)
            return self._receive(dst, message.code, message.seq, message.body, now)
        link = self.links.get(dst)
        if link is None:
            link = self.links[dst] = Link(dst)
        effects = self._numbered(link, message, now)
        if not message.seq and dst == self.leader_vmid and self._is_kept(message.code):
            effects += self._keep_word(link.sent, message, now)
        return effects

    def _reply(self, dst: int, message: Outgoing, now: float) -> Effects:
        if dst == self.vmid:
            return self._receive(dst, message.code, message.seq, message.body, now)
        link = self.links.get(dst)
        return [] if link is None else self._numbered(link, message, now)

    # ---- receiving

    def _receive(self, src: int, code: int, seq: int, body: Body, now: float) -> Effects:
        if code >= FIRST_USER_CODE:
            assert not isinstance(body, tuple)
            return [make(Message, (src, code, seq, bytes(body)))]
        handle = self._on_own.get(code)
        if handle is not None:
            return handle(src, seq, body, now)
        if code in LEADER_CODES or code in WORD_OF:
            if self._is_asked_again(src):
                return []
            if self.leader is None:
                text = f"VMID {self.vmid} is not the leader; epoch {self.epoch}"
                return self.refuse(src, seq, errno.EPROTO, text, now) if seq else []
            return self._ask_own_leader(src, code, seq, body, now)
        if seq:
            text = f"code {code} is not handled by this version"
            return self.refuse(src, seq, errno.ENOSYS, text, now)
        return []

    def _on_out_of_turn(self, link: Link, number: int) -> Effects:
        if number <= link.delivered:
            # It came before: our acknowledgement was lost with a connection.
            link.announced_ack = min(link.announced_ack, number - 1)
        return []

    def _on_ack(self, link: Link, seq: int, body: Body, now: float) -> Effects:
        link.greeting = False
        link.asked_at = -1
        if not link.on_probe_answered(link.acked):
            return []
        return self._send_again(link, now)

    def _on_probe(self, link: Link, seq: int, body: Body, now: float) -> Effects:
        link.starving = True
        effects = self._unnumbered(link, Code.ACK)
        if link.credit_due(self.send_buffer // 4):
            effects += self.send(link.peer, Code.CREDIT, (link.credit(),), now)
        return effects

    def _on_credit(self, link: Link, seq: int, body: Body, now: float) -> Effects:
        assert isinstance(body, tuple)
        total = body[0]
        assert isinstance(total, int)
        return [Progress(link.peer)] if link.on_credit(total) else []

    def _on_cancel(self, src: int, seq: int, body: Body, now: float) -> Effects:
        assert isinstance(body, tuple)
        effects: Effects = [Withdraw(src, int(body[0]))]  # type: ignore[call-overload]
        if self.leader is not None and src not in self.away:
            effects += self._lead(self.leader.on_cancel(src, int(body[0]), now), now)  # type: ignore[call-overload]
        return effects

    def _on_child_exit(self, src: int, seq: int, body: Body, now: float) -> Effects:
        assert isinstance(body, tuple)
        told = ChildExit(src, *body)  # type: ignore[arg-type]
        if self.leader is None or src in self.away:
            return [told]
        return [told, *self._lead(self.leader.on_child_exit(told), now, self.links.get(src))]

    def _on_kill(self, src: int, seq: int, body: Body, now: float) -> Effects:
        assert isinstance(body, tuple)
        # For others than us, a request is for the leader in us; its relay is for us.
        ours = self._is_to_us(body)
        if seq and self._is_asked_again(src) and not (ours and self.leader is None):
            return []
        if self.leader is not None and not ours and (seq or src != self.vmid):
            return self._ask_own_leader(src, Code.PID_KILL, seq, body, now)
        return self.inbox.on_kill(src, seq, body, now)

    def _is_to_us(self, kill: tuple[object, ...]) -> bool:
        """Whether this signal is for this very process, and needs no leader."""
        return kill[4] & 3 < 2 and kill[1] == self.inbox.pid  # type: ignore[operator]

    def _result_of_kill(self, dst: int, seq: int, result: int, now: float) -> Effects:
        return self.answer(dst, seq, (result,), now, Code.PID_KILL) if seq else []

    def _on_get_meta(self, src: int, seq: int, body: Body, now: float) -> Effects:
        assert isinstance(body, tuple)
        return [GetMeta(src, seq, *body)] if seq else []  # type: ignore[arg-type]

    def _on_sync(self, code: int, src: int, seq: int, body: Body, now: float) -> Effects:
        if src != self.leader_vmid or not self.is_heard:
            return []
        return self.sync.on_message(code, body, now)

    def _on_leaders_word(
        self, kind: Callable[..., Effect], src: int, seq: int, body: Body, now: float
    ) -> Effects:
        assert isinstance(body, tuple)
        return [kind(*body)] if src == self.leader_vmid and self.is_heard else []

    # ---- the leader, ours or another process

    def _ask_leader(
        self, code: Code, fields: tuple[object, ...], then: Then, now: float
    ) -> Effects:
        return self.request(self.leader_vmid, code, fields, then, now)[1]

    def _tell_leader(self, code: Code, body: Body, now: float) -> Effects:
        return self.send(self.leader_vmid, code, body, now)

    def _resume_handles(self, now: float) -> Effects:
        return self.sync.do(self.sync.client.resume(), now)


def _gone_error(peer: int) -> IpcError:
    return PeerDied(f"VMID {peer} is gone: it ended or left the group, or never was")
