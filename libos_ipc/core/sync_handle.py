"""One handle in one process: local locks on a shared value, and what the server is asked for.

The problem: processes share a value, each wants it at the speed of its own memory, and nobody
may read an old one. The idea is that of a cache: a process *keeps* what it was granted after it
has unlocked, so that it locks again without a message, until the server recalls it because
another process waits. Messages are one-way, ordered and exactly once between two processes.

    client 2 (SHARED, unused)        server                        client 3 (INVALID)
       |                                |      REQUEST_UPGRADE EXCLUSIVE     |  lock
       |                                |<-----------------------------------|
       |   REQUEST_DOWNGRADE INVALID    |                                    |
       |<-------------------------------|                                    |
       |   CONFIRM_DOWNGRADE INVALID    |                                    |
       |------------------------------->|  CONFIRM_UPGRADE EXCLUSIVE, value  |
       |                                |----------------------------------->|  uses it
       |     REQUEST_UPGRADE SHARED     |                                    |
 lock  |------------------------------->|      REQUEST_DOWNGRADE SHARED      |
       |                                |----------------------------------->|  still in use
       |                                |           IN_USE thread            |
       |                                |<-----------------------------------|
       |                                |  CONFIRM_DOWNGRADE SHARED, value   |  unlock: Commit
       | CONFIRM_UPGRADE SHARED, value  |<-----------------------------------|
 uses  |<-------------------------------|                                    |

One agent of a process at a time uses a handle; the others wait here, in order of arrival, and
only the first of them is asked for at the server. A recall is complied with as soon as the use
allows it, and before the next one here is served. Requests and confirmations need not pair:

  - A request replaces the former one; what that was for may have been granted meanwhile. So every
    CONFIRM_UPGRADE is taken, wanted or not, and what nobody wants is kept like anything else.
  - Of two recalls on their way the stronger counts, and is confirmed once; but who uses as SHARED
    what is EXCLUSIVE here, and is to be INVALID, lets others read at once, and confirms twice.
  - Waits carry numbers that are never used again, so that a refusal meets the wait it is meant
    for or none. The server refuses a wait that would close a cycle; for this it is told who
    waits behind whom in this process, as long as somebody does so without time-out.

Who waits for a change leaves here the version that it knows. For it the process wants to be
SHARED, asking anew after each recall; a recall comes only if somebody is about to write.

A value changes only under EXCLUSIVE. `Commit` is performed before the lock is given up, so that
a death costs nothing committed; what was changed here stays until the next grant, so that a new
leader can be told.

Refused: a second lock by the agent that uses the handle already, in any state (EDEADLK); unlock
by anybody but the user; a change without EXCLUSIVE; a value over `max_value` bytes.

Invariants: a recall is pending only while the use needs all there is; the server is asked only
while nobody uses the handle; the first to wait needs more than there is, or somebody uses it.
"""

from __future__ import annotations

import errno
from collections import deque

from libos_ipc.core.sync_holder import BatonHolder
from libos_ipc.core.sync_words import (
    NEVER_WRITTEN,
    Baton,
    Changed,
    ClientEffect,
    Commit,
    ConfirmDowngrade,
    ConfirmUpgrade,
    Data,
    Failed,
    Granted,
    InUse,
    LocalWait,
    RefuseWait,
    RequestClose,
    RequestDowngrade,
    RequestUpgrade,
    Resume,
    ServerWord,
    State,
    Value,
    Wait,
    WithdrawWait,
)
from libos_ipc.core.vocabulary import Note, make
from libos_ipc.errors import InvalidArgument, MessageTooLarge, PermissionDenied

__all__ = ["FIELDS", "Effects", "LocalHandle", "ignored"]

Effects = list[ClientEffect]

INVALID, SHARED, EXCLUSIVE = State.INVALID, State.SHARED, State.EXCLUSIVE

#: What there is to a handle, but for those who wait.
FIELDS = (
    *("id", "opened", "state", "user", "using", "recall", "owner_died", "value", "own"),
    *("number", "asked", "declined", "told_waits", "told_user", "deposit"),
)


class LocalHandle(BatonHolder):
    """A handle that is open here, and has been opened `opened` times.

    What it takes to lock and unlock at once is the cell's: `lock_now`, `unlock_now` and the fields
    that they look at. Between two steps C code may call them too.
    """

    __slots__ = (
        "asked",
        "declined",
        "told_waits",
    )

    def __init__(self, id: int) -> None:
        self.id = id
        self.value = NEVER_WRITTEN
        self.asked: Wait | None = None  # for whom the server was asked
        self.declined = False  # the baton, and has heard nothing since
        self.told_waits = 0  # how many of `waits` the server knows of, but for `asked`

    # ---- what the program asks

    def lock(self, thread: int, state: State, ticket: object, timed: bool) -> Effects:
        """Get the lock for `thread`, at once or later: `ticket` is granted or fails."""
        if self.lock_now(thread, state):
            return [make(Granted, (ticket, self.value))]
        user = self.user
        if user == thread:
            text = f"locking sync handle {self.id}: thread {thread} uses it already; unlock first"
            return [Failed(ticket, errno.EDEADLK, text)]
        if not user and state == EXCLUSIVE and self._take_by_baton():
            self.user, self.using = thread, state
            return [make(Granted, (ticket, self.value))]
        left = self.leave_baton()
        self.number += 1
        told = not timed and bool(user or self.waits)
        if self.waits is None:
            self.waits = deque()
        self.waits.append(Wait(self.number, thread, state, timed, ticket, told))
        if not told:
            return [*left, *self._settle()]
        self.told_waits += 1
        self.told_user = user
        return [*left, LocalWait(self.id, self.using, self.number, thread, user)]

    def unlock(self, thread: int, data: Data | None, max_value: int) -> Effects:
        """Give up the lock, with a changed value or without."""
        if self.user != thread:
            user = f"thread {self.user} does" if self.user else "nobody does"
            text = f"thread {thread} unlocking sync handle {self.id}, which it does not use: {user}"
            raise PermissionDenied(text)
        if data is not None:
            self._check_change(data, max_value)
        if self._give_by_baton(data):
            return []
        effects = self.leave_baton()
        if data is not None:
            effects += self._commit(data)
        if not self.unlock_now(thread):
            self.user, self.using = 0, INVALID
            effects += self._settle()
        return effects

    def withdraw(self, ticket: object) -> Effects:
        """`ticket` waits no longer, for the lock or for a change. Nothing if it is settled."""
        if self.watches and self.watches.pop(ticket, None) is not None:
            return self._settle()
        wait = next((wait for wait in self.waits or () if wait.ticket == ticket), None)
        return [] if wait is None else self._end_wait(wait)

    def watch(self, ticket: object, version: int) -> Effects:
        """Tell `ticket` of the first version seen here that is newer than `version`."""
        if self.value.version > version:
            return [Changed(ticket, self.value.version)]
        left = self.leave_baton()
        if self.watches is None:
            self.watches = {}
        self.watches[ticket] = version
        return [*left, *self._settle()]

    def waiting(self) -> list[object]:
        """The tickets that are not settled."""
        return [wait.ticket for wait in self.waits or ()] + list(self.watches or ())

    # ---- what the server says, and what it is told of all at once

    def on_downgrade(self, word: RequestDowngrade) -> Effects:
        """A recall."""
        left = self.leave_baton()
        if self.declined and self.state == INVALID:
            return left  # it crossed the word that a baton was declined
        if not INVALID <= word.state < self.state:
            return [*left, ignored(word, f"asked down to {word.state} one who has {self.state}")]
        self.recall = min(self.recall or EXCLUSIVE, word.state)
        return [*left, *self._settle()]

    def on_upgrade(self, word: ConfirmUpgrade) -> Effects:
        """A grant, of what was asked or of what was asked before that."""
        left = self.leave_baton()
        if not self.state < word.state <= EXCLUSIVE:
            return [*left, ignored(word, f"granted {word.state} to one who has {self.state}")]
        self.state = word.state
        self.value = word.value
        self.own = self.declined = False
        self.owner_died |= word.owner_died
        if self.asked is not None and not self.asked.thread:
            self.asked = None  # any state is a copy
        return left + self._wake() + self._settle()

    def on_baton(self, word: ConfirmUpgrade, baton: Baton | None) -> Effects:
        """EXCLUSIVE may be taken by this baton, and is reserved for us; None if it cannot be had
        here. Whoever waits for it, if anybody does, is served; what the server heard is over."""
        left = self.leave_baton()
        if self.state > INVALID:
            return [*left, ignored(word, f"handed a baton to one who has {self.state}")]
        self.baton = baton
        asked = self.asked
        if asked is not None and not asked.thread:
            self.asked = asked = None  # any state is a copy
        if not self._take_by_baton():
            if asked is not None:
                self.asked = None  # and is asked for again
                self.told_waits += asked.told
            self.declined = True
            left += [*self.leave_baton(), ConfirmDowngrade(self.id, INVALID, None, False)]
            return left + self._settle()
        self.declined = False
        effects = left + self._wake()
        if self.waits:
            effects += self._serve(self.waits.popleft())
            self.waits = self.waits or None
        alone = not (self.waits or self.watches or self.told_user or self.told_waits)
        kept = alone and self.baton is not None and not self.baton.ended()
        if not kept or not (self.user or self._give_by_baton(None)):
            effects += self.leave_baton() + self._settle()
        return effects

    def on_refused(self, word: RefuseWait) -> Effects:
        """A wait would never end."""
        wait = next((wait for wait in self.waits or () if wait.number == word.number), None)
        if wait is None:
            return []
        if self.asked == wait and not wait.told:
            self.asked = None  # otherwise the refusal may have crossed what was asked since
        failed = Failed(wait.ticket, word.errno, word.text)
        return [failed, *self._end_wait(wait, refused=True)]

    def last_word(self) -> RequestClose:
        """The handle is closed here. A new leader may lack a value that is only SHARED by now."""
        self.leave_baton()
        return RequestClose(self.id, self.state, self._unsaved(), self.owner_died)

    def resume(self) -> Effects:
        """Tell a new leader how things stand, and ask again."""
        effects = self.leave_baton()
        effects.append(Resume(self.id, self.state, self._unsaved(), self.owner_died))
        told = [wait for wait in self.waits or () if wait.told]
        for wait in told:
            effects.append(LocalWait(self.id, self.using, wait.number, wait.thread, self.user))
        self.told_waits = len(told)
        self.told_user = self.user if told else 0
        self.recall = 0
        self.asked = None
        self.declined = False
        return effects + self._settle()

    # ---- what follows from it

    def _settle(self) -> Effects:
        """Do what has become possible, and ask for what has become necessary."""
        effects: Effects = []
        if self.recall and self.using < self.state:
            effects.append(self._comply())
        waits = self.waits
        while waits and not self.user and waits[0].state <= self.state:
            effects += self._serve(waits.popleft())
        if not waits:
            self.waits = None
        return effects + self._ask() + self._tell_user()

    def _comply(self) -> ConfirmDowngrade:
        """Go down as far as the use allows; what remains of the recall has to wait for its end."""
        value = self.value if self.state == EXCLUSIVE else None
        self.state = max(self.recall, self.using)
        hand_back = self.owner_died and self.state == INVALID
        word = ConfirmDowngrade(self.id, self.state, value, hand_back)
        self.owner_died &= not hand_back
        self.recall = 0 if self.state == self.recall else self.recall
        self.told_user = 0
        if self.state == INVALID and not self.own:
            self.value = Value(self.value.version, b"")
        return word

    def _serve(self, wait: Wait) -> Effects:
        asked = self.asked == wait
        if asked:
            self.asked = None
        told = wait.told and not asked
        self.told_waits -= told
        if self.owner_died:
            self.owner_died = False
            text = f"the former user of sync handle {self.id} died while it held it exclusively"
            failed = Failed(wait.ticket, errno.EOWNERDEAD, text)
            return [failed, WithdrawWait(self.id, wait.number)] if told else [failed]
        self.user = wait.thread
        self.using = wait.state
        granted = Granted(wait.ticket, self.value)
        if not told:
            return [granted]
        if self.told_waits or self.told_user:
            self.told_user = wait.thread
            return [granted, InUse(self.id, wait.state, wait.thread)]
        return [granted, WithdrawWait(self.id, wait.number)]

    def _ask(self) -> Effects:
        """Ask the server for the first who waits, or no longer for one who does not."""
        asked, want = self.asked, None
        if not self.user:
            if self.waits:
                want = self.waits[0]
            elif self.watches and self.state == INVALID:
                want = asked if asked is not None and not asked.thread else self._copy_wanted()
        if want == asked:
            return []
        self.asked = want
        if want is None:
            return [] if asked is None else [WithdrawWait(self.id, asked.number)]
        self.told_waits -= want.told
        self.told_user = 0
        return [RequestUpgrade(self.id, want.state, want.number, want.thread, want.timed)]

    def _copy_wanted(self) -> Wait:
        self.number += 1
        return Wait(self.number, 0, SHARED, True, None, False)

    def _tell_user(self) -> Effects:
        """The server knows the user while somebody may wait for it, and never a former one."""
        user = self.user if self.recall or self.told_waits else 0
        if self.told_user in (user, self.user):
            return []
        self.told_user = user
        return [InUse(self.id, self.using if user else INVALID, user)]

    def _end_wait(self, wait: Wait, *, refused: bool = False) -> Effects:
        """Somebody waits no longer; `refused` if the server has said so."""
        assert self.waits is not None
        self.waits.remove(wait)
        effects: Effects = []
        if wait.told and self.asked != wait:
            self.told_waits -= 1
            if not refused:
                effects.append(WithdrawWait(self.id, wait.number))
        return effects + self._settle()

    def _check_change(self, data: Data, max_value: int) -> None:
        if self.using != EXCLUSIVE:
            text = f"changing sync handle {self.id} under a shared lock: lock it exclusively"
            raise InvalidArgument(text)
        size = len(data) if isinstance(data, bytes) else data.size
        if size > max_value:
            text = f"a value of {size} bytes for sync handle {self.id}: {max_value} at most"
            raise MessageTooLarge(text)

    def _commit(self, data: Data) -> Effects:
        self.value = Value(self.value.version + 1, data)
        self.own = True
        return [Commit(self.id, self.value), *self._wake()]

    def _unsaved(self) -> Value | None:
        return self.value if self.own or self.state == EXCLUSIVE else None

    def _wake(self) -> Effects:
        if not self.watches:
            return []
        version = self.value.version
        woken = [ticket for ticket, known in self.watches.items() if known < version]
        for ticket in woken:
            del self.watches[ticket]
        return [Changed(ticket, version) for ticket in woken]

    # ---- for comparing, and for copies

    def row(self) -> tuple[object, ...]:
        """All fields in a fixed order, for comparing."""
        named = tuple(getattr(self, name) for name in FIELDS)
        waits = tuple(self.waits or ())
        return *named, waits, tuple((self.watches or {}).items()), self.baton

    def __reduce__(self) -> tuple[object, ...]:
        """A copy, for whoever goes through all states that there are."""
        names = (*FIELDS, "waits", "watches", "baton")
        fields = {name: getattr(self, name) for name in names}
        return LocalHandle, (self.id,), (None, fields)


def ignored(word: ServerWord, reason: str) -> Note:
    """What an operator may read about a message that fits nothing here."""
    fields: dict[str, object] = {"handle": word.id, "word": type(word).__name__, "reason": reason}
    return Note("sync message ignored", fields)
