"""The server of all handles of a group: who gets which state when, and who must give way.

For the protocol see `sync_handle`, for what is recorded `sync_table`; here are the decisions.
Every one is first made as a record, so that whoever reads the journal knows all that anybody
was told.

The queue of a handle is served in order of arrival, so that nobody starves: its head is granted
as soon as nobody is in its way, and then the next; SHARED that follow one another go together.
Who is in the way is recalled, once; only the recall to SHARED may be strengthened to INVALID
while it is pending. The head itself is granted nothing while it owes an answer to a recall:
until that has come, what it has is not known.

A process that dies is nobody's obstacle any more. If it was EXCLUSIVE, what it committed last is
read from where it left it; if it died between lock and unlock and the handle says "raise", the
next one granted is told. News of a death are told again rather than lost: when they were given to
a process that gave up waiting, or that died before it gave back or committed anything.

What moves from one process to the next again and again goes on without us: see `sync_passing`.
And who has what he does not use is not asked: see `sync_deposits`.

Cycles are looked for by somebody who sees file locks too: `waits_for` gives him the edges known
here, and `find_cycle` is asked whenever one is added. The wait that closed the cycle is refused,
all others stay.

Hostile input (a handle that is not open there, a state that makes no sense, a confirmation that
nobody asked for, a version out of range) is ignored with a note. So is what merely came late.

Invariants: those of the table; the head of a queue has somebody in its way, or owes an answer;
everybody in its way has been recalled, unless it is silent.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

from libos_ipc.core.sync_passing import MOST_COMMITS
from libos_ipc.core.sync_rows import IN_THE_WAY, Entry, Handle, Row
from libos_ipc.core.sync_taking import SyncTaking
from libos_ipc.core.sync_waits import blockers_inside, blockers_of_entry, uses_in_the_way
from libos_ipc.core.sync_words import (
    Agent,
    Blockers,
    ClientWord,
    ConfirmClose,
    ConfirmDowngrade,
    ConfirmUpgrade,
    Decision,
    InUse,
    LocalWait,
    RefuseWait,
    Remains,
    RequestClose,
    RequestDowngrade,
    RequestUpgrade,
    Resume,
    State,
    To,
    WithdrawWait,
)
from libos_ipc.core.vocabulary import Note, make
from libos_ipc.errors import IdsExhausted, InvalidArgument

__all__ = ["MOST_COMMITS", "NAME_MAX", "WAITS_MAX", "FindCycle", "SyncServer"]

#: The text of the cycle that these blockers of this agent close, None if they close none.
FindCycle = Callable[[Agent, Blockers], str | None]

#: Characters of a name, and of the text of a type.
NAME_MAX = 4096
#: Waits behind one another inside a process, per handle, that are looked at.
WAITS_MAX = 4096

INVALID, SHARED, EXCLUSIVE = State.INVALID, State.SHARED, State.EXCLUSIVE

#: (what one has, what it confirms to have left) -> whether a value comes with it.
DOWNGRADES: dict[tuple[int, int], bool] = {
    (EXCLUSIVE, SHARED): True,
    (EXCLUSIVE, INVALID): True,
    (SHARED, INVALID): False,
}


class SyncServer(SyncTaking):
    """The server's machine. `find_cycle` looks over everything that can wait, see above."""

    def __init__(self, *, find_cycle: FindCycle, **ids: int) -> None:
        super().__init__(**ids)
        self.find_cycle = find_cycle

    # ---- inputs

    def open(
        self, src: int, id: int, name: str, type_text: str, on_owner_death: str = "last"
    ) -> tuple[int, Decision]:
        """Open a handle for `src`: by ID, by name, or a new one if there is neither; its ID.

        InvalidArgument if it is there with another type or another word on the owner's death,
        or if what is asked makes no sense. Opening what is open there changes nothing.
        """
        done = make(Decision, ([], [], []))
        id, counted = self._find_id(id, name)
        handle = self.handles.get(id)
        if handle is None:
            if len(type_text) > NAME_MAX or on_owner_death not in ("last", "raise"):
                text = f"opening sync handle {id}: on_owner_death is 'last' or 'raise', not "
                raise InvalidArgument(f"{text}{on_owner_death[:20]!r}; a type's text is shorter")
        else:
            self._check_alike(handle, type_text, on_owner_death)
        if handle is None or src not in handle.rows:
            self._record(done, ("open", src, id, name, type_text, on_owner_death, counted))
        return id, done

    def on_message(self, src: int, word: ClientWord) -> Decision:
        """A message of an identified client."""
        done = make(Decision, ([], [], []))
        handle = self.handles.get(word.id)
        row = handle.rows.get(src) if handle is not None else None
        if handle is not None and row is not None:
            if handle.baton is not None and self._passed(done, src, handle, row, word):
                return done
            _ON_MESSAGE[type(word)](self, done, src, handle, row, word)
        elif isinstance(word, RequestClose):
            # Closed for the former leader, who did not live to confirm it.
            done.messages.append(To(src, ConfirmClose(word.id)))
        else:
            _ignore(done, src, word, "not open there")
        return done

    def on_gone(self, vmid: int, remains: Callable[[int], Remains]) -> Decision:
        """A client is dead. `remains` gives what it left of a handle that it had EXCLUSIVE."""
        done = make(Decision, ([], [], []))
        ids = list(self.open_at.get(vmid, ()))
        for id in ids:
            handle = self.handles[id]
            row = handle.rows[vmid]
            self._end_baton(done, handle)
            unheard = row.warned
            if row.state == EXCLUSIVE and len(handle.rows) > 1:
                value, in_use = remains(id)
                in_use |= row.lent and value is None  # the baton alone said so
                version = handle.value.version
                self._take_value(done, vmid, handle, value)
                unheard &= handle.value.version == version
                unheard |= in_use and handle.on_death == "raise"
            if unheard and not handle.owner_died:
                self._record(done, ("death", id))
        if ids:
            self._record(done, ("gone", vmid))
        for id in ids:
            self._forget_baton(id)
            if id in self.handles:
                self._advance(done, self.handles[id])
        return done

    def takeover(self) -> Decision:
        """This server has read the journal of another, and begins."""
        done = make(Decision, ([], [], []))
        for handle in self.handles.values():
            self._end_baton(done, handle)
        self._record(done, ("takeover",))
        return done

    # ---- messages

    def _request_upgrade(
        self, done: Decision, src: int, handle: Handle, row: Row, word: RequestUpgrade
    ) -> None:
        if word.state not in (SHARED, EXCLUSIVE):
            return _ignore(done, src, word, f"no state to ask for: {word.state}")
        if word.state <= row.state or row.is_over(word.number):
            # What grants it is on its way, or has come and was taken; what was asked before is not
            # wanted any more.
            self._record(done, ("has", src, handle.id, word.number))
        else:
            wanted = (word.state, word.number, word.thread, word.timed)
            self._record(done, ("want", src, handle.id, *wanted))
            entry = handle.entry_of(src)
            assert entry is not None
            self._refuse_if_cycle(done, handle, entry, blockers_of_entry(handle, entry))
        self._advance(done, handle)
        return None

    def _withdraw(
        self, done: Decision, src: int, handle: Handle, row: Row, word: WithdrawWait
    ) -> None:
        entry = handle.entry_of(src)
        if entry is not None and entry.number == word.number:
            self._record(done, ("unwant", src, handle.id))
            self._advance(done, handle)
        elif word.number in (row.waits or ()):
            self._record(done, ("unwait", src, handle.id, word.number))

    def _confirm_downgrade(
        self, done: Decision, src: int, handle: Handle, row: Row, word: ConfirmDowngrade
    ) -> None:
        key = (row.state, word.state)
        declined = row.offered and word.state == INVALID
        if key not in DOWNGRADES or not (declined or 0 < row.recall <= word.state):
            return _ignore(done, src, word, f"{row.state} to {word.state}, recall {row.recall}")
        if DOWNGRADES[key]:
            self._take_value(done, src, handle, word.value)
        if word.owner_died:
            self._take_back_warning(done, handle, row)
        self._record(done, ("drop", src, handle.id, word.state))
        self._advance(done, handle)
        return None

    def _request_close(
        self, done: Decision, src: int, handle: Handle, row: Row, word: RequestClose
    ) -> None:
        if row.state == EXCLUSIVE:
            self._take_value(done, src, handle, word.value)
        if word.owner_died or word.state < row.state:
            self._take_back_warning(done, handle, row)
        self._record(done, ("close", src, handle.id))
        self._forget_baton(handle.id)
        done.messages.append(To(src, ConfirmClose(handle.id)))
        self._advance(done, handle)

    def _in_use(self, done: Decision, src: int, handle: Handle, row: Row, word: InUse) -> None:
        if not INVALID <= word.state <= EXCLUSIVE:
            return _ignore(done, src, word, f"no state to use it in: {word.state}")
        self._record(done, ("use", src, handle.id, word.thread, word.state))
        self._check_user(done, src, handle, row)
        self._advance(done, handle)
        return None

    def _local_wait(
        self, done: Decision, src: int, handle: Handle, row: Row, word: LocalWait
    ) -> None:
        crowded = len(row.waits or ()) >= WAITS_MAX
        if word.thread == 0 or crowded or not INVALID <= word.state <= EXCLUSIVE:
            return _ignore(done, src, word, "nobody, or too many, wait there; or no state")
        known = row.user == word.user
        wait = (word.number, word.thread, word.user, word.state)
        self._record(done, ("wait", src, handle.id, *wait))
        self._refuse_local(done, src, handle, word.number)
        if not known:
            self._check_user(done, src, handle, row)
            self._advance(done, handle)
        return None

    def _resume(self, done: Decision, src: int, handle: Handle, row: Row, word: Resume) -> None:
        if not row.silent or not INVALID <= word.state <= row.state:
            return _ignore(done, src, word, f"it has {row.state} as far as known")
        if row.state == EXCLUSIVE:
            self._take_value(done, src, handle, word.value)
        if word.state < row.state and not word.owner_died:
            self._take_back_warning(done, handle, row)
        self._record(done, ("resume", src, handle.id, word.state))
        self._advance(done, handle)
        return None

    # ---- who is next

    def _advance(self, done: Decision, handle: Handle) -> None:
        """Serve the queue as far as it goes, and recall who is in the way of its head."""
        while handle.queue:
            head = handle.queue[0]
            blocked = handle.rows[head.vmid].recall != 0
            for vmid, row in handle.in_the_way(head):
                to = IN_THE_WAY[head.state, row.state]
                if self._taken(done, vmid, handle, row, to):
                    continue
                blocked = True
                if not row.silent and (not row.recall or row.recall > to):
                    self._record(done, ("recall", vmid, handle.id, int(to)))
                    recall = make(RequestDowngrade, (handle.id, to))
                    done.messages.append(make(To, (vmid, recall)))
            if blocked:
                return
            if head.state != EXCLUSIVE:
                handle.moves = 0
            elif self._begin_baton(done, handle, head):
                return
            given = (handle.id, head.state, handle.value, handle.owner_died, None)
            self._record(done, ("grant", head.vmid, handle.id, head.state))
            done.messages.append(make(To, (head.vmid, make(ConfirmUpgrade, given))))

    def _take_back_warning(self, done: Decision, handle: Handle, row: Row) -> None:
        """Nobody was told there: it said so, or it never had what was granted with the news."""
        if row.warned and not handle.owner_died:
            self._record(done, ("death", handle.id))

    # ---- cycles

    def waits_for(self, agent: Agent) -> Iterator[tuple[Agent, str]]:
        """For whom this agent waits on handles, and why; nobody if its wait ends by itself."""
        vmid, thread = agent
        for id in self.waiting.get(agent, ()):
            handle = self.handles[id]
            entry = handle.entry_of(vmid)
            if entry is not None and entry.agent == agent:
                yield from blockers_of_entry(handle, entry)
            if thread in (handle.rows[vmid].waits or {}).values():
                yield from blockers_inside(handle, vmid, thread)

    def _check_user(self, done: Decision, src: int, handle: Handle, row: Row) -> None:
        """It has become known who uses the handle there: who waits for that may close a cycle."""
        if not row.user:
            return
        # From the end: who waits behind another one should not be the reason to refuse that one.
        for entry in reversed(handle.queue):
            if entry.vmid != src and uses_in_the_way(row, entry):
                edge = ((src, row.user), f"uses {handle}")
                self._refuse_if_cycle(done, handle, entry, [edge])
        for number in list(row.waits or ()):
            self._refuse_local(done, src, handle, number)

    def _refuse_if_cycle(
        self, done: Decision, handle: Handle, entry: Entry, blockers: Blockers
    ) -> None:
        agent, edges = entry.agent, list(blockers)
        text = self.find_cycle(agent, edges) if agent and edges else None
        if text is not None:
            self._record(done, ("unwant", entry.vmid, handle.id))
            refusal = RefuseWait(handle.id, entry.number, errno.EDEADLK, text)
            done.messages.append(To(entry.vmid, refusal))

    def _refuse_local(self, done: Decision, src: int, handle: Handle, number: int) -> None:
        thread = (handle.rows[src].waits or {})[number]
        edges = list(blockers_inside(handle, src, thread))
        text = self.find_cycle((src, thread), edges) if edges else None
        if text is not None:
            self._record(done, ("unwait", src, handle.id, number))
            done.messages.append(To(src, RefuseWait(handle.id, number, errno.EDEADLK, text)))

    # ---- helpers

    def _find_id(self, id: int, name: str) -> tuple[int, bool]:
        """The ID that is meant, and whether it is the next one of ours."""
        if id and name:
            raise InvalidArgument(f"opening sync handle {id} {name[:40]!r}: by ID or by name")
        if len(name) > NAME_MAX or not 0 <= id < 2**32:
            raise InvalidArgument("opening a sync handle: its name is too long, or its ID no u32")
        if id or name in self.names:
            return id or self.names[name], False
        span = self.last_id - self.first_id + 1
        for step in range(min(span, len(self.handles) + 1)):
            id = self.first_id + (self.next_id - self.first_id + step) % span
            if id not in self.handles:
                return id, True
        raise IdsExhausted(f"every ID of a sync handle is in use, {span} of them")

    def _check_alike(self, handle: Handle, type_text: str, on_owner_death: str) -> None:
        for what, there, asked in (
            ("type", handle.type_text, type_text),
            ("on_owner_death", handle.on_death, on_owner_death),
        ):
            if there != asked:
                text = f"opening {handle} with {what} {asked[:200]!r}: it is open with {there!r}"
                raise InvalidArgument(text)

    def check(self) -> None:
        """Assert the invariants. O(n)."""
        super().check()
        for handle in self.handles.values():
            if handle.queue:
                head = handle.queue[0]
                others = list(handle.in_the_way(head))
                assert others or handle.rows[head.vmid].recall
                for _, row in others:
                    assert row.silent or 0 < row.recall <= IN_THE_WAY[head.state, row.state]


def _ignore(done: Decision, src: int, word: ClientWord, reason: str) -> None:
    fields: dict[str, object] = {"peer": src, "handle": word.id, "word": type(word).__name__}
    done.notes.append(Note("sync message ignored", {**fields, "reason": reason}))


_ON_MESSAGE: dict[type[ClientWord], Callable[[SyncServer, Decision, int, Handle, Row, Any], None]]
_ON_MESSAGE = {
    RequestUpgrade: SyncServer._request_upgrade,
    WithdrawWait: SyncServer._withdraw,
    ConfirmDowngrade: SyncServer._confirm_downgrade,
    RequestClose: SyncServer._request_close,
    InUse: SyncServer._in_use,
    LocalWait: SyncServer._local_wait,
    Resume: SyncServer._resume,
}
