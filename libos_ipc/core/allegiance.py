"""A member and its leader: what is said to whom, and what is said again when another one leads.

    member                               successor
       |---- BACK: what I wait for ---------->  |  forgets the answers that have arrived
       |   <-- the last word that was heard --  |  what it had to say meanwhile follows
       |---- words not heard, requests open ->  |  answered from the journal, or done

Without a leader nothing fails: requests stay in their table, under nobody's number, and words are
put off. What goes to the next one, goes in the old order: what was acknowledged first, then what
was not, and then what came in between. A request keeps its number, by which a leader that finds
its answer in the journal knows it; of words without an answer the journal says up to which one
they were heard. Words about sync handles are not said again: the handles tell all of it anew.

Links between members live on, and so may the link to who led before, if it is a member. So whose
word it is decides, and when: only the leader's of this epoch, and nothing before its answer to
BACK, since it may have led an earlier epoch, too, and what it said then be still on its way. The
leader for its part tells a process nothing before its BACK: it would not be believed.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from libos_ipc.core.calls import Calls
from libos_ipc.core.codes import Code
from libos_ipc.core.leader import LEADER_CODES, Leader
from libos_ipc.core.leading import Leading
from libos_ipc.core.signals import Inbox
from libos_ipc.core.sync_desk import WORD_OF
from libos_ipc.core.sync_end import SyncEnd
from libos_ipc.core.vocabulary import (
    Body,
    Close,
    Effects,
    Heard,
    Journal,
    LeaderGone,
    Outgoing,
    Progress,
    make,
)
from libos_ipc.errors import IpcError, LeaderLost, PeerDied

__all__ = ["ASKED_OF_LEADER", "Allegiance", "Standing", "is_for_leader"]

#: In the table of requests: who is asked as long as nobody leads.
NOBODY = 0
#: What is for the leader, as such, beside its requests: how a child ended, and what is withdrawn.
_TO_LEADER = LEADER_CODES | WORD_OF.keys() | {Code.CHILDEXIT, Code.CANCEL}
_WORDS = _TO_LEADER - WORD_OF.keys()
#: Requests that go to whoever leads.
ASKED_OF_LEADER = LEADER_CODES | {Code.PID_KILL}
#: To ourselves, once we lead: tell of our handles.
_RESUME = Outgoing(Code.SYNC_RESUME, 0, ())
#: Words to the leader after which it is asked whether it has written them.
WORDS_AT_A_TIME = 64


class Standing(Enum):
    """How a process stands with who leads."""

    FOLLOWING = "following"  #: it is heard, and hears
    ORPHANED = "orphaned"  #: nobody leads, as far as is known here
    RETURNING = "returning"  #: somebody does, and has not answered to BACK
    LOST = "lost"  #: nobody leads any more


class Unsaid(NamedTuple):
    """What a leader may not have heard; `number` on the link of its epoch, 0 if it was not sent.

    It was said behind all requests up to `after`, or behind all that the leader has acknowledged.
    """

    epoch: int
    number: int
    message: Outgoing
    after: float = math.inf  # a request's own number says as much


class Allegiance(Leading):
    """A member's links and its leader, whoever that is."""

    calls: Calls
    sync: SyncEnd
    inbox: Inbox
    leader_vmid: int
    #: the fields of one of the library's messages: what went out as bytes may come to be ours
    decode_body: Callable[[int, bytes], Body]

    standing = Standing.FOLLOWING
    #: this process has led, and is deposed: what it was asked then, its successor answers
    deposed = False
    _back = 0  # the number of our BACK, as long as it is not answered
    #: the last number on the link to the leader that was used before it led this epoch: when it led
    #: an earlier one, and what it has not heard of that is in `_unsaid` by now
    _before = 0

    def __init__(self, vmid: int, epoch: int, send_buffer: int, lane_after: int) -> None:
        super().__init__(vmid, epoch, send_buffer, lane_after)
        self._unsaid: list[Unsaid] = []
        #: words to the leader of this epoch, of which it is not known that it has written them: it
        #: may acknowledge one, and be deposed
        self._words: deque[Unsaid] = deque()
        #: what we have said to the leader in us, and it has not heard: see `hear_own`
        self.own: deque[Unsaid] = deque()

    def _dispatch(self, dst: int, message: Outgoing, now: float) -> Effects:
        raise NotImplementedError

    def request(
        self, dst: int, code: int, body: Body, ticket: object, now: float
    ) -> tuple[int, Effects]:
        """Send a request; `ticket` is resolved or failed later. Gives its sequence number."""
        raise NotImplementedError

    @property
    def waits_for_leader(self) -> bool:
        """Whether the leader has not even acknowledged something, be it that we are here."""
        link = self.links.get(self.leader_vmid)
        return link is not None and link.open

    # ---- what the program says while nobody listens

    @property
    def is_heard(self) -> bool:
        """Whether what is for the leader can be sent to it now."""
        return self.standing is Standing.FOLLOWING

    def reaches(self, peer: int) -> bool:
        """Whether a message to this process goes anywhere, at once or by and by."""
        if peer == self.leader_vmid and self.standing in (Standing.ORPHANED, Standing.RETURNING):
            return True
        return peer == self.vmid or peer in self.links

    def _say_later(self, message: Outgoing, now: float) -> Effects:
        """Say this to the next leader."""
        if self.standing is Standing.LOST:
            error = self._lost_error()
            return [*self.calls.fail_peer(NOBODY, error, now), *self.sync.on_server_lost(error)]
        if message.code not in WORD_OF:
            self._unsaid.append(Unsaid(0, 0, message))
        return []

    @staticmethod
    def _is_kept(code: int) -> bool:
        """Whether this is a word that one leader after the other must hear, until one has."""
        return code in _WORDS

    def _is_put_off(self, message: Outgoing) -> bool:
        return not self.is_heard and is_for_leader(message)

    def _keep_word(self, number: int, message: Outgoing, now: float) -> Effects:
        """This went to the leader under this number; it wants no answer."""
        said = self._words
        said.append(Unsaid(self.epoch, number, message))
        if len(said) % WORDS_AT_A_TIME:
            return []

        def then(answer: Body | IpcError, now: float) -> Effects:
            if not isinstance(answer, IpcError):  # by who has written all that came before
                while said and said[0].number < number:
                    said.popleft()
            return []

        return self.request(self.leader_vmid, Code.GET_ID_OWNER, (self.vmid,), then, now)[1]

    def _is_asked_again(self, src: int) -> bool:
        """Whether what this process asks of us as a leader is not ours to answer now: it asks the
        next one; or it has asked in an earlier epoch, and asks us again."""
        return self.deposed if self.leader is None else src in self.away

    # ---- losing a leader

    def _on_leader_gone(self, now: float) -> Effects:
        """The leader is dead, or another program now."""
        leader = self.leader_vmid
        known = self.standing in (Standing.LOST, Standing.ORPHANED)
        if not known:
            self._keep_what_is_owed()
        untold = self.untold_exits(leader, self._before)  # as their parent, before it led
        effects: Effects = [Close(leader)] if self.drop_link(leader) else []
        for message in untold:
            effects += self._say_later(message, now)
        error = PeerDied(f"VMID {leader}, which led, is gone")
        effects += self.calls.fail_peer(leader, error, now)
        self.inbox.on_gone(leader)
        effects.append(Progress(leader))
        return effects if known else [*effects, LeaderGone(self.epoch)]

    def _keep_what_is_owed(self) -> None:
        """Requests and words for the leader are nobody's, until there is another one."""
        leader, calls = self.leader_vmid, self.calls
        if self._back:
            calls.withdraw(self._back)
            self._back = 0
        for seq, entry in calls.table.of_peer(leader):
            if entry[0] in ASKED_OF_LEADER:
                calls.table.move(seq, NOBODY)
        link = self.links.get(leader)
        owed = list(self._words)
        for word in owed:
            if link is not None and word.message.code == Code.CHILDEXIT:
                link.revoke(word.number)  # the next leader's, not this process's once more
        for number, message in () if link is None else link.kept:
            if message.seq and message.code in ASKED_OF_LEADER and number > self._before:
                owed.append(Unsaid(self.epoch, number, message))
        self._words = deque()
        self._unsaid += sorted(owed, key=lambda each: each.number)
        self.standing = Standing.ORPHANED

    def depose(self) -> None:
        """We lead no more: a successor has sealed our journal."""
        if self.leader is not None:
            self._keep_what_is_owed()
            self._unsaid += (each for each in self.own if each.message.code not in WORD_OF)
            self.own.clear()
            self.leader = None
            self.away = {}
            self.deposed = True

    def on_leader_lost(self, now: float) -> Effects:
        """Nobody leads any more, and nobody can: who waits for a leader need not."""
        self._keep_what_is_owed()
        self.standing = Standing.LOST
        self._unsaid.clear()
        error = self._lost_error()
        return [
            *self.calls.fail_peer(NOBODY, error, now),
            *self.sync.on_server_lost(error),
            Progress(self.leader_vmid),
        ]

    def _lost_error(self) -> LeaderLost:
        return LeaderLost(
            f"the leader (VMID {self.leader_vmid}, epoch {self.epoch}) is gone and nobody can take "
            "over; what it granted stays valid, but the group must be founded anew"
        )

    # ---- having another one

    def adopt(self, epoch: int, leader_vmid: int, leader: Leader | None, now: float) -> Effects:
        """Another process leads this epoch; `leader` is its machine, if it is this one."""
        if epoch <= self.epoch:
            return []
        if self.standing in (Standing.FOLLOWING, Standing.RETURNING):
            self._keep_what_is_owed()
        self.epoch, self.leader_vmid, self.leader = epoch, leader_vmid, leader
        self.inbox.leader = leader_vmid
        link = self.links.get(leader_vmid)
        self._before = 0 if link is None else link.sent
        self.away = {} if leader is None else leader.unheard(self.vmid)
        effects = self._reconnect(now)
        if leader is None:
            return effects + self.report_back(now)
        waits = frozenset(seq for seq, _ in self.calls.table.of_peer(NOBODY))
        told = leader.on_back(self.vmid, waits)
        effects += self._say_again(leader.answered.last_heard(self.vmid), now)
        return effects + self.lead(told, now)

    def report_back(self, now: float) -> Effects:
        """Tell the leader of this epoch what we wait for, and ask what it has heard."""
        self.standing = Standing.RETURNING
        waits = tuple(seq for seq, _ in self.calls.table.of_peer(NOBODY))
        self._back = self.calls.add(self.leader_vmid, Code.BACK, self._on_answer_to_back)
        asked = make(Outgoing, (Code.BACK, self._back, (self.epoch, waits), 0))
        return self._dispatch(self.leader_vmid, asked, now)

    def _on_answer_to_back(self, answer: Body | IpcError, now: float) -> Effects:
        self._back = 0
        if isinstance(answer, IpcError):
            return self.on_leader_lost(now)  # it has taken us for dead
        assert isinstance(answer, tuple)
        return self._say_again((int(answer[0]), int(answer[1])), now)  # type: ignore[call-overload]

    def _say_again(self, heard: tuple[int, int], now: float) -> Effects:
        """The leader is there: everything that it may not have heard."""
        messages = [self._readable(each) for each in self._owed_again(*heard)]
        self._unsaid = []
        self.standing = Standing.FOLLOWING
        for message in messages:
            if message.seq:
                self.calls.table.move(message.seq, self.leader_vmid)
        if self.leader is not None:  # one by one, and it may be deposed in between
            self.own += (Unsaid(0, 0, message) for message in (*messages, _RESUME))
            return []
        effects: Effects = []
        for message in messages:
            effects += self._dispatch(self.leader_vmid, message, now)
        return [*effects, *self._resume_handles(now), Progress(self.leader_vmid)]

    def _owed_again(self, epoch: int, number: int) -> Iterator[Outgoing]:
        """In the old order, but for words up to this one on the link of its epoch."""
        waiting = dict(self.calls.table.of_peer(NOBODY))
        again = {each.message.seq for each in self._unsaid}
        sent = deque(seq for seq in waiting if seq not in again)
        for each in (*self._unsaid, None):
            before = math.inf if each is None else each.message.seq or each.after
            while sent and sent[0] <= before:
                seq = sent.popleft()
                yield Outgoing(waiting[seq][0], seq, waiting[seq][2])
            if each is None:
                return
            seq = each.message.seq
            if seq in waiting if seq else not (each.epoch == epoch and 0 < each.number <= number):
                yield each.message

    def _readable(self, message: Outgoing) -> Outgoing:
        code, body = message.code, message.body
        if self.leader is None or isinstance(body, tuple):
            return message
        return message._replace(body=self.decode_body(code, bytes(body)))

    def _resume_handles(self, now: float) -> Effects:
        raise NotImplementedError

    # ---- links

    def unarrived(self) -> list[int]:
        """Peers that have not acknowledged everything. What was for a leader before this one goes
        to this one, too."""
        return [
            peer
            for peer, link in self.links.items()
            if link.keeps
            and (peer == self.leader_vmid or any(_is_for_peer(m) for _, m in link.kept))
        ]

    def _reconnect(self, now: float) -> Effects:
        """Connections belong to an epoch: one of ours may have been refused, by a process that was
        in this epoch before us. Another is made as soon as there is something to say."""
        effects: Effects = []
        for link in self.links.values():
            if not link.by_lane:
                link.connected = False
                if link.open or link.ack_owed():
                    effects += self._connect(link, now)
        return effects

    # ---- as the leader

    def _say_to_ourselves(self, message: Outgoing) -> Effects:
        self.own.append(Unsaid(0, 0, message, self.calls.table.last))
        return []

    def hear_own(self, now: float) -> Effects:
        """The leader in us hears what was said first to it from here, as it hears others: when all
        that was decided by then is done. A word is said again if what comes of it is not written.
        """
        said = self.own.popleft()
        message = said.message
        if message is _RESUME:
            return [*self._resume_handles(now), Progress(self.vmid)]
        effects = self._receive(self.vmid, message.code, message.seq, message.body, now)
        if not message.seq and message.code not in WORD_OF:
            for at, effect in enumerate(effects):
                if isinstance(effect, Journal):
                    self._unsaid.append(said)
                    effects.insert(at + 1, Heard(message))
                    break
        return effects

    def on_heard(self, message: Outgoing) -> None:
        """The journal knows of it."""
        if self._unsaid:
            self._unsaid = [each for each in self._unsaid if each.message is not message]

    def _on_back(self, src: int, seq: int, body: Body, now: float) -> Effects:
        """A member has adopted our epoch."""
        assert isinstance(body, tuple)
        leader = self.leader
        if leader is None:
            text = f"VMID {self.vmid} is not the leader; epoch {self.epoch}"
            return [] if self.deposed else self.refuse(src, seq, errno.EPROTO, text, now)
        epoch, waiting = body
        if epoch != self.epoch:
            return []  # one in which we led, too: it says so again
        if src not in leader.processes:
            return self.refuse(src, seq, errno.ENOTCONN, f"VMID {src} has left", now)
        waits = frozenset(waiting)  # type: ignore[call-overload]
        told = leader.on_back(src, waits)
        heard = leader.answered.last_heard(src)
        held = self.away.pop(src, [])
        effects = self.answer(src, seq, heard, now, Code.BACK)
        return effects + self.lead([*told, *held], now)


def _is_for_peer(message: Outgoing) -> bool:
    """Whether this may be for a process that does not lead: so is the withdrawal of a request that
    was made to it, and how its child ended."""
    return message.code in (Code.CANCEL, Code.CHILDEXIT) or not is_for_leader(message)


def is_for_leader(message: Outgoing) -> bool:
    """Whether this goes to the leader as such. A relayed signal is no request."""
    return message.code in _TO_LEADER or (message.code == Code.PID_KILL and message.seq != 0)
