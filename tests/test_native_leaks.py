"""Every function of the extension, run many times, keeps no memory and no reference.

Each case runs one function through its good and its bad ends; a case that is missing fails the
first test.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import mmap
import os
import signal
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import zmq
import zmq.backend
from local_ids_leaks import CASES as OF_LOCAL_IDS
from shared_memory import memory

from libos_ipc import _native
from libos_ipc._native import (
    LARGE,
    PORTER,
    SEAT,
    Clerk,
    Delegation,
    Descriptor,
    Doorbell,
    Exchange,
    Landing,
    Lane,
    Layout,
    Ledger,
    Malformed,
    Outstanding,
    Port,
    Shared,
    Ticket,
    exchange_word,
)
from libos_ipc.core.vocabulary import Message, Outgoing

ROUNDS = 300
# Fresh objects, and no small or immortal ones, so that a reference too many can be seen.
NUMBER = int("1099511627776")
PAYLOAD = bytearray(b"payload of no particular kind")
TICKET = object()
LAYOUT = Layout("QQi", 40)
MESSAGE = bytearray(_native.pack_message(64, NUMBER, PAYLOAD))
ENVELOPE = bytearray(_native.pack_envelope(NUMBER, NUMBER))
BYTES = bytes(LARGE)
THINGS = [NUMBER, PAYLOAD, TICKET, LAYOUT, MESSAGE, ENVELOPE, BYTES]
WATCHED = [*THINGS, Malformed, Layout, Outstanding, Ledger, Port]


def refused(function: Callable[..., object], *args: object, **names: object) -> None:
    with contextlib.suppress(ValueError, TypeError, OverflowError, BufferError):
        function(*args, **names)
        raise AssertionError("not refused")


def case_pack_message() -> None:
    _native.pack_message(64, NUMBER, PAYLOAD)
    _native.pack_message(code=64, seq=NUMBER, payload=PAYLOAD)
    refused(_native.pack_message, 64, 2**70, PAYLOAD)
    refused(_native.pack_message, 64, NUMBER, "text")
    refused(_native.pack_message, 64, NUMBER, memoryview(PAYLOAD)[::2])
    refused(_native.pack_message, 64, seq=NUMBER, code=1)
    refused(_native.pack_message, 64, seq=NUMBER, other=1)


def case_pack_header() -> None:
    _native.pack_header(64, NUMBER, NUMBER)
    refused(_native.pack_header, 64, NUMBER, -1)
    refused(_native.pack_header, 64)


def case_unpack_message() -> None:
    _native.unpack_message(MESSAGE, NUMBER)
    refused(_native.unpack_message, MESSAGE, 20)
    refused(_native.unpack_message, PAYLOAD, NUMBER)
    refused(_native.unpack_message, b"short", NUMBER)
    refused(_native.unpack_message, None, NUMBER)


def case_unpack_header() -> None:
    _native.unpack_header(MESSAGE[:17], len(PAYLOAD), NUMBER)
    refused(_native.unpack_header, MESSAGE, len(PAYLOAD), NUMBER)
    refused(_native.unpack_header, MESSAGE[:17], 1, NUMBER)
    refused(_native.unpack_header, MESSAGE[:17], -1, NUMBER)


def case_pack_envelope() -> None:
    _native.pack_envelope(NUMBER, NUMBER)
    refused(_native.pack_envelope, NUMBER, -1)


def case_unpack_envelope() -> None:
    _native.unpack_envelope(ENVELOPE)
    refused(_native.unpack_envelope, PAYLOAD)
    refused(_native.unpack_envelope, None)


SLOT = bytearray(_native.SLOT_BYTES + 8)


def slot() -> Delegation:
    for offset in range(8):
        with contextlib.suppress(ValueError):
            return Delegation(SLOT, offset)
    raise AssertionError("no place for a slot")


def case_delegation() -> None:
    slot().close()
    refused(Delegation, SLOT, -1)
    refused(Delegation, SLOT, NUMBER)
    refused(Delegation, b"read only", 0)
    refused(Delegation, None, 0)


def case_delegation_set() -> None:
    given = slot()
    given.begin(1, NUMBER)
    given.set(4, NUMBER, 1, 0, NUMBER, 1, -1, -1)
    given.set(4, NUMBER, 2, 0, NUMBER, 1, -1, -1)
    refused(given.set, 4, NUMBER, 1, NUMBER, 0, 1, -1, -1)
    refused(given.set, 4, NUMBER, 1, 0, 0, 1, NUMBER, -1)
    refused(given.set, NUMBER)
    given.close()
    refused(given.set, 4, NUMBER, 1, 0, 0, 1, -1, -1)


def case_descriptor() -> None:
    _native.Descriptor(0)
    _native.Descriptor(0, 100)
    _native.Descriptor(fd=0, lowest=2**31 - 1)
    refused(_native.Descriptor, NUMBER)
    refused(_native.Descriptor, 0, -1)
    for arguments in ((-1,), (-1, 0)):
        with contextlib.suppress(OSError):
            _native.Descriptor(*arguments)


def case_descriptor_open() -> None:
    _native.Descriptor.open(os.devnull, os.O_RDONLY)
    _native.Descriptor.open(os.fsencode(os.devnull), os.O_RDWR)
    refused(_native.Descriptor.open, NUMBER, 0)
    refused(_native.Descriptor.open, "a\0b", 0)
    refused(_native.Descriptor.open, os.devnull, "r")
    with contextlib.suppress(OSError):
        _native.Descriptor.open("/nowhere", os.O_RDONLY)


def case_descriptor_fileno() -> None:
    assert os.fstat(_native.Descriptor(0, 100).fileno())


def case_descriptor_close() -> None:
    given = _native.Descriptor(0)
    given.close()
    given.close()
    assert given.fileno() == -1


class Files:
    """A group, to QuickCall for `lockf`."""

    def __init__(self) -> None:
        self.files = _native.QuickFiles()


def quick_lockf(fd: int) -> tuple[Files, Any]:
    group, given = Files(), slot()
    given.begin(1, NUMBER)
    found = os.fstat(fd)
    assert group.files.offer(fd, found.st_dev, found.st_ino, given)
    return group, _native.QuickCall(lambda *_: NUMBER, [group], "files")


def case_quickfiles() -> None:
    _native.QuickFiles()


def case_quickfiles_offer() -> None:
    files, given = _native.QuickFiles(), slot()
    for fd in range(20):
        assert files.offer(fd, NUMBER, NUMBER, given) == (fd < 16)
    refused(files.offer, -1, NUMBER, NUMBER, given)
    refused(files.offer, 0, NUMBER, NUMBER, None)
    given.close()
    refused(files.offer, 0, NUMBER, NUMBER, given)
    assert files.offer(99, NUMBER, NUMBER, slot())


def case_quickfiles_forget() -> None:
    files = _native.QuickFiles()
    files.offer(0, NUMBER, 1, slot())
    files.forget(NUMBER, 2)
    files.forget(NUMBER, 1)
    refused(files.forget, -1, 0)


def case_quickfiles_clear() -> None:
    files = _native.QuickFiles()
    files.offer(0, NUMBER, 1, slot())
    files.clear()
    files.clear()


class Flocks:
    """A group, to QuickCall for `flock`."""

    def __init__(self) -> None:
        self.files = _native.QuickFlocks(itertools.count(1), 0)


def offer_flocks(fd: int, given: _native.Delegation) -> Flocks:
    group = Flocks()
    found = os.fstat(fd)
    assert group.files.offer(0, found.st_dev, found.st_ino, given, 1 << 32, ())
    return group


def case_quickflocks() -> None:
    _native.QuickFlocks(itertools.count(1), 0)
    refused(_native.QuickFlocks, 1, 0)
    refused(_native.QuickFlocks, itertools.count(1), -1)


def case_quickflocks_offer() -> None:
    files, given = _native.QuickFlocks(itertools.count(1), 0), slot()
    for inode in range(20):
        assert files.offer(0, 1, inode, given, 0, ()) == (inode < 16)
    assert files.offer(0, 1, 3, given, 0, ())
    assert not files.offer(1, 1, 3, given, 0, ())
    refused(files.offer, 0, NUMBER, NUMBER, None, 0, ())
    refused(files.offer, 0, NUMBER, NUMBER, given, 0, (None,))
    assert files.offer(0, 1, 4, given, 0, (_native.Descriptor(0, 0),))
    given.close()
    refused(files.offer, 0, NUMBER, NUMBER, given, 0, ())
    assert files.offer(0, 1, 99, slot(), 0, ())


def case_quickflocks_withdraw() -> None:
    with open(os.devnull, "r+b") as file:
        given = slot()
        given.begin(1, NUMBER)
        group = offer_flocks(file.fileno(), given)
        flock = _native.QuickCall(lambda *_: NUMBER, [group], "files")
        assert flock(file, 2) is None
        found = os.fstat(file.fileno())
        assert group.files.withdraw(1, 2) == []
        ((handle, fd, duplicate, *where),) = group.files.withdraw(found.st_dev, found.st_ino)
        assert (fd, where) == (file.fileno(), [found.st_dev, found.st_ino])
        assert flock(file, 8) == NUMBER
        group.files.forget(handle)
        assert duplicate.fileno() == -1 or os.fstat(duplicate.fileno())
        refused(group.files.withdraw, -1, 0)


def case_quickflocks_withdraw_all() -> None:
    with open(os.devnull, "r+b") as file:
        group = offer_flocks(file.fileno(), slot())
        before = group.files.turn
        assert group.files.withdraw_all() == []
        assert group.files.turn == before + 1


def case_quickflocks_turn() -> None:
    assert _native.QuickFlocks(itertools.count(1), 0).turn == 0


def case_quickflocks_forget() -> None:
    _native.QuickFlocks(itertools.count(1), 0).forget(NUMBER)
    refused(_native.QuickFlocks(itertools.count(1), 0).forget, -1)


def flock_quickly() -> None:
    with open(os.devnull, "r+b") as file, open(os.devnull, "r+b") as other:
        given = slot()
        given.begin(1, NUMBER)
        group = offer_flocks(file.fileno(), given)
        flock = _native.QuickCall(lambda *_: NUMBER, [group], "files")
        assert [flock(file, what) for what in (1, 2, 1, 5)] == [None] * 4
        assert flock(other, 6) == NUMBER  # it would wait
        assert flock(other, 1) is None
        assert [flock(each, 8) for each in (other, file)] == [None] * 2
        for arguments in ((file, 8), (file, 99), (file,), (file, 2, 0)):
            assert flock(*arguments) == NUMBER
        refused(flock, "no", 2)
        given.recall()
        assert flock(file, 2) == NUMBER


def case_quickcall() -> None:
    flock_quickly()
    with open(os.devnull, "r+b") as file:
        group, lockf = quick_lockf(file.fileno())
        assert lockf(file, 2) is None
        assert lockf(file.fileno(), 8, 0, 0, 0) is None
        for arguments in (
            (file, 2, -1),
            (file, 2, 2, 2**63 - 1),
            (file, 99),
            (file, 2, 0, 0, 1),
        ):
            assert lockf(*arguments) == NUMBER
        refused(lockf, "no", 2)
        group.files.clear()
        assert lockf(file, 2) == NUMBER
    refused(_native.QuickCall, None, (), "files")
    groups: list[Any] = []
    groups.append(_native.QuickCall(slot, groups, "files"))  # a cycle, for the collector


def case_quickcall_reduce() -> None:
    assert lockf_of(slot).__reduce__() == "slot"


def case_quickcall_repr() -> None:
    assert "slot" in repr(lockf_of(slot))


def lockf_of(function: Any) -> Any:
    return _native.QuickCall(function, [], "files")


def case_quickcall_getattribute() -> None:
    assert lockf_of(slot).__name__ == "slot"  # the function's, as all but the call
    with contextlib.suppress(AttributeError):
        _ = lockf_of(slot).no_such_thing


def case_quickcall_call() -> None:
    assert lockf_of(lambda *given, **named: (given, named))(1, a=2) == ((1,), {"a": 2})


def case_quickcall_wrapped() -> None:
    assert lockf_of(slot).__wrapped__ is slot


class Lock(_native.QuickLock):
    def acquire(self) -> object:
        return PAYLOAD

    def release(self) -> None:
        pass


def quick_lock() -> Lock:
    lock, given = Lock(), slot()
    given.begin(1, NUMBER)
    found = os.stat("/")
    file = found.st_dev, found.st_ino
    keeper = Descriptor.open("/", os.O_PATH)
    lock._offer(given, b"/", itertools.count(1), 1, file, (1, 0, NUMBER), keeper, None)
    return lock


def lock_in_turns() -> Lock:
    """One that waits: another one has the lock."""
    lock = quick_lock()
    page = mmap.mmap(-1, mmap.PAGESIZE)
    turns(page).begin(((NUMBER, 1, 1, 1),), NUMBER)
    found = os.stat("/")
    what: Any = ((found.st_dev, found.st_ino), (1, 0, NUMBER), PAYLOAD, None)
    lock._offer(turns(page, 2), b"/", itertools.count(1), 1, *what)
    assert not lock._take(1e-9)
    return lock


def case_quicklock() -> None:
    Lock()
    quick_lock()
    _native.QuickLock(NUMBER, name=PAYLOAD)


def case_handlecell() -> None:
    cell = _native.HandleCell(NUMBER, name=PAYLOAD)
    cell.waits = [cell]  # type: ignore[assignment]


def case_handlecell_lock_now() -> None:
    cell = _native.HandleCell()
    cell.state = 2
    assert cell.lock_now(5, 2)
    refused(cell.lock_now, NUMBER, 2)
    refused(cell.lock_now, 1)


def case_handlecell_unlock_now() -> None:
    cell = _native.HandleCell()
    cell.user = 5
    assert cell.unlock_now(5)
    refused(cell.unlock_now, PAYLOAD)


def set_in_cell(name: str, value: object) -> None:
    cell = _native.HandleCell()
    for _ in range(2):
        setattr(cell, name, value)
        assert getattr(cell, name) == value
    refused(setattr, cell, name, 1.5) if isinstance(value, int) else delattr(cell, name)


case_handlecell_opened = partial(set_in_cell, "opened", 2**31)
case_handlecell_state = partial(set_in_cell, "state", 2**31)
case_handlecell_user = partial(set_in_cell, "user", 2**31)
case_handlecell_using = partial(set_in_cell, "using", 2**31)
case_handlecell_recall = partial(set_in_cell, "recall", 2**31)
case_handlecell_told_user = partial(set_in_cell, "told_user", 2**31)
case_handlecell_number = partial(set_in_cell, "number", 2**63)
case_handlecell_own = partial(set_in_cell, "own", True)
case_handlecell_owner_died = partial(set_in_cell, "owner_died", True)
case_handlecell_value = partial(set_in_cell, "value", THINGS)
case_handlecell_waits = partial(set_in_cell, "waits", THINGS)
case_handlecell_watches = partial(set_in_cell, "watches", THINGS)
case_handlecell_record = partial(set_in_cell, "record", THINGS)
case_handlecell_baton = partial(set_in_cell, "baton", THINGS)
case_handlecell_deposit = partial(set_in_cell, "deposit", THINGS)


def case_handlecell_is_idle() -> None:
    cell = _native.HandleCell()
    cell.state, cell.deposit = 2, deposit()
    assert cell.is_idle()
    assert cell.lock_now(5, 2)
    assert not cell.is_idle()


class Handle(_native.QuickHandle):
    def _lock(self, *args: object, **names: object) -> object:
        return args, names

    _unlock = _decode = _lock

    def _give_up(self, agent: int) -> None:
        self._cell().unlock_now(agent)

    def _cell(self) -> _native.HandleCell:
        cell: _native.HandleCell = vars(self)["cell"]
        return cell


def quick_handle() -> Handle:
    handle, cell = Handle(), _native.HandleCell()
    vars(handle)["cell"] = cell
    cell.state, cell.value = 2, ENVELOPE  # type: ignore[assignment]
    handle._bind(cell, exchange()[0])
    return handle


def case_quickhandle() -> None:
    Handle(NUMBER, name=PAYLOAD)
    quick_handle()._know(quick_handle(), NUMBER)  # type: ignore[arg-type]


def case_quickhandle_bind() -> None:
    handle = quick_handle()
    handle._bind(handle._cell(), exchange()[0])
    refused(handle._bind, PAYLOAD, exchange()[0])
    refused(handle._bind, handle._cell(), PAYLOAD)
    refused(handle._bind, handle._cell())


def case_quickhandle_unbind() -> None:
    handle = quick_handle()
    handle._unbind()
    handle._unbind()


def case_quickhandle_know() -> None:
    handle = quick_handle()
    handle._know(ENVELOPE, NUMBER)  # type: ignore[arg-type]
    assert (handle._known, handle._decoded) == (ENVELOPE, NUMBER)
    refused(handle._know, ENVELOPE)


case_quickhandle_known = case_quickhandle_decoded = case_quickhandle_know


def case_quickhandle_current() -> None:
    handle = quick_handle()
    handle._current = ENVELOPE  # type: ignore[assignment]
    assert handle._current is ENVELOPE


def case_quickhandle_lock() -> None:
    handle = quick_handle()
    assert handle.lock(2) == ((ENVELOPE,), {})  # type: ignore[arg-type]
    assert handle.lock(2) == ((2,), {})  # type: ignore[arg-type]
    handle.unlock()
    handle._know(ENVELOPE, NUMBER)  # type: ignore[arg-type]
    assert handle.lock(2) is NUMBER  # type: ignore[arg-type]
    handle.lock(state=NUMBER, timeout=1)  # type: ignore[arg-type]
    handle.unlock()
    handle._decode = lambda value: 1 // 0  # type: ignore[method-assign]
    handle._know(None, None)  # type: ignore[arg-type]
    with contextlib.suppress(ZeroDivisionError):
        handle.lock(2)  # type: ignore[arg-type]
    assert handle._cell().user == 0


def changeable() -> Handle:
    """One that is EXCLUSIVE, of plain numbers, and has been written."""
    handle, cell = quick_handle(), vars(quick_handle())["cell"]
    vars(handle)["cell"] = cell
    cell.state, cell.value, cell.record = 3, (NUMBER, b"old"), record()
    handle._bind(cell, exchange()[0])
    handle._shape(_native.QuickSection, _native.QuickBox, int, str_of, 1000)
    return handle


def str_of(value: object) -> bytes:
    return repr(value).encode()


def record() -> _native.Record:
    return _native.Record(bytearray(512), 64, 64)


def case_quickhandle_shape() -> None:
    handle = changeable()
    handle._shape(_native.QuickSection, _native.QuickBox, bytes, None, NUMBER)
    refused(handle._shape, PAYLOAD, _native.QuickBox, int, str_of, 5)
    refused(handle._shape, _native.QuickSection, int, int, str_of, 5)
    refused(handle._shape, _native.QuickSection, _native.QuickBox, int, str_of, -1)
    refused(handle._shape, NUMBER)


def case_quickhandle_user() -> None:
    handle = changeable()
    handle.lock(3)  # type: ignore[arg-type]
    assert handle._user == threading.get_native_id()


def case_quickhandle_unlock() -> None:
    handle = quick_handle()
    assert handle.unlock(NUMBER) == ((NUMBER,), {})  # type: ignore[func-returns-value]
    handle.lock(2)  # type: ignore[arg-type]
    handle.unlock()
    handle = changeable()
    for value in (NUMBER + 1, NUMBER + 2):
        handle.lock(3)  # type: ignore[arg-type]
        handle.unlock(value)
        assert handle.lock(3) == value  # type: ignore[arg-type]
        handle.unlock()
    handle.lock(3)  # type: ignore[arg-type]
    assert handle.unlock(10**70) == ((10**70,), {})  # type: ignore[func-returns-value]


def lock_by_baton() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    baton(memory=page).begin(NUMBER, BYTES[:99], 7)
    handle = changeable()
    cell = handle._cell()
    cell.state, cell.baton = 1, baton(1, 7, page)
    for value in (NUMBER + 1, NUMBER + 2):
        handle.lock(3)  # type: ignore[arg-type]
        handle.unlock(value)
        with handle.exclusive() as box:
            assert box.value == value
            box.value += 1
    handle.lock(3)  # type: ignore[arg-type]
    baton(1, memory=page).end()
    assert handle.unlock() == ((), {})  # type: ignore[func-returns-value]


def case_quickhandle_shared() -> None:
    handle = changeable()
    with handle.shared(timeout=NUMBER) as value:
        assert value is handle._decoded or handle._decoded is None
    refused(handle.shared, 1, 2)
    refused(handle.exclusive, time_out=NUMBER)
    refused(Handle().shared)


def case_quickhandle_exclusive() -> None:
    lock_by_baton()
    handle = changeable()
    with handle.exclusive() as box:
        box.value = NUMBER + 1
    with handle.exclusive() as box:
        assert box.value == NUMBER + 1
    with contextlib.suppress(ZeroDivisionError), handle.exclusive() as box:
        box.value //= 0
    handle._changed = lambda before, value: 1 // 0  # type: ignore[attr-defined]
    with contextlib.suppress(ZeroDivisionError), handle.exclusive() as box:
        box.value = "no number"
    assert handle._user == 0


def case_quicksection() -> None:
    section = _native.QuickSection(changeable(), 3, NUMBER)  # type: ignore[arg-type]
    assert (section._state, section._timeout) == (3, NUMBER)
    refused(_native.QuickSection, PAYLOAD, 3)
    refused(_native.QuickSection, quick_handle(), 3)
    refused(_native.QuickSection, NUMBER)


def case_quicksection_enter() -> None:
    handle = changeable()
    handle.lock(3)  # type: ignore[arg-type]
    for locked in ((NUMBER, 7), PAYLOAD, (NUMBER, "7")):
        handle._lock_for_block = lambda *args, found=locked: found  # type: ignore[attr-defined]
        section = handle.exclusive()
        with contextlib.suppress(TypeError):
            assert section.__enter__().value is NUMBER


def case_quicksection_entered() -> None:
    section = changeable().exclusive()
    assert section._entered(PAYLOAD, NUMBER % 7).value is PAYLOAD
    refused(section._entered, PAYLOAD, -1)
    refused(section._entered, PAYLOAD)


def case_quicksection_exit() -> None:
    handle = changeable()
    handle._leave = lambda agent, data: (agent, data)  # type: ignore[attr-defined]
    section = handle.exclusive()
    section._entered(NUMBER, 7)
    section.__exit__(None, None, None)
    section.__exit__(None, PAYLOAD, None)
    refused(section.__exit__, None)


case_quicksection_handle = case_quicksection_state = case_quicksection_timeout = case_quicksection


def case_quickbox() -> None:
    box = _native.QuickBox(PAYLOAD)
    box.value = [box]
    refused(_native.QuickBox)


case_quickbox_value = case_quickbox_init = case_quickbox


def baton(number: int = 0, me: int = 0, memory: Any = None) -> _native.Baton:
    page = mmap.mmap(-1, mmap.PAGESIZE) if memory is None else memory
    return _native.Baton(page, 1, number, me)


def turns(memory: Any = None, me: int = 0) -> _native.Turns:
    return _native.Turns(mmap.mmap(-1, mmap.PAGESIZE) if memory is None else memory, 0, me)


def case_turns() -> None:
    turns()
    refused(_native.Turns, mmap.mmap(-1, mmap.PAGESIZE), 7, 1)
    refused(_native.Turns, mmap.mmap(-1, mmap.PAGESIZE), 0, 9)
    refused(_native.Turns, b"read only", 0, 1)
    refused(_native.Turns, None, 0, 1)


def case_turns_take() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    assert turns(page, 1).take(NUMBER, 1, 1, 0.0) in (0, -1)
    turns(page).begin(((NUMBER, 1, 1, NUMBER),), NUMBER + 9)
    assert turns(page, 2).take(NUMBER + 1, 1, 1, 1e-9) == -1
    assert turns(page, 1).leave(NUMBER)
    assert turns(page, 2).take(NUMBER + 1, 1, 1, 1.0) == NUMBER + 1
    refused(turns(page, 2).take, NUMBER, 1, 1, PAYLOAD)
    refused(turns(page, 2).take, NUMBER)


def case_turns_leave() -> None:
    assert not turns(None, 1).leave(NUMBER)
    refused(turns(None, 1).leave, PAYLOAD)


def case_turns_ended() -> None:
    assert not turns().ended()


def case_turns_begin() -> None:
    turns().begin(((NUMBER, 1, 0, NUMBER),) * 8, NUMBER)
    refused(turns().begin, ((NUMBER, 1, 0, NUMBER),) * 9, NUMBER)
    refused(turns().begin, ((NUMBER, 1, 0),), NUMBER)
    refused(turns().begin, ((NUMBER, 1, 0, PAYLOAD),), NUMBER)
    refused(turns().begin, ((NUMBER, 1, 0, NUMBER),), -1)
    refused(turns().begin, NUMBER, NUMBER)
    refused(turns().begin, NUMBER)


def case_turns_look() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    turns(page).begin(((NUMBER, 1, 0, NUMBER),), NUMBER)
    assert turns(page).look() == (True, ((1, NUMBER, 1, 0, NUMBER),))


def case_turns_end() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    turns(page).begin(((NUMBER, 1, 0, NUMBER),), NUMBER)
    assert turns(page).end() == (True, ((1, NUMBER, 1, 0, NUMBER),))


def case_turns_release() -> None:
    ours = turns()
    ours.release()
    refused(ours.end)


def case_baton() -> None:
    baton()
    refused(_native.Baton, bytes(4096), 0, 0, 0)
    refused(_native.Baton, mmap.mmap(-1, 4096), 99, 0, 0)
    refused(_native.Baton, NUMBER)


def case_baton_me() -> None:
    assert baton(1, 2**32 - 1).me == 2**32 - 1


def case_baton_take() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    leader = baton(memory=page)
    assert baton(1, 7, page).take() is None
    leader.begin(NUMBER, BYTES[:99], 7)
    assert baton(1, 7, page).take() == (NUMBER, BYTES[:99])


def case_baton_give() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    baton(memory=page).begin(NUMBER, BYTES[:99], 7)
    ours = baton(1, 7, page)
    ours.take()
    assert ours.give(NUMBER, BYTES[:98])
    assert not ours.give()
    refused(ours.give, NUMBER, BYTES)
    refused(ours.give, NUMBER, PAYLOAD)
    refused(ours.give, NUMBER)


def case_baton_begin() -> None:
    assert baton().begin(NUMBER, b"", 7) == 1
    assert baton(2**28 - 1).begin(NUMBER, b"", 7) == 0
    refused(baton().begin, NUMBER, PAYLOAD, 7)
    refused(baton().begin, NUMBER, b"", NUMBER)
    refused(baton().begin, NUMBER)


def case_baton_reserve() -> None:
    ours = baton(5)
    assert not ours.reserve(7)
    refused(ours.reserve, PAYLOAD)


def case_baton_ended() -> None:
    ours = baton(5)
    assert ours.ended()
    ours.begin(NUMBER, b"", 7)
    assert not ours.ended()


def case_baton_end() -> None:
    ours = baton()
    ours.begin(NUMBER, BYTES[:99], 7)
    for _ in range(2):
        assert ours.end() == (7, False, (NUMBER, BYTES[:99]))
    assert baton(5).end() is None


def case_baton_release() -> None:
    ours = baton()
    for _ in range(2):
        ours.release()
    assert ours.begin(NUMBER, b"", 7) == 0
    assert (ours.take(), ours.give(), ours.end()) == (None, False, None)


def deposit(table: Any = None) -> _native.Deposit:
    made = mmap.mmap(-1, _native.DEPOSIT_BYTES) if table is None else table
    return _native.Deposit(made, 7, 7, 1)


def case_deposit() -> None:
    deposit()
    refused(_native.Deposit, bytes(_native.DEPOSIT_BYTES), 0, 7, 1)
    refused(_native.Deposit, mmap.mmap(-1, _native.DEPOSIT_BYTES), _native.DEPOSIT_CELLS, 7, 1)
    refused(_native.Deposit, NUMBER)


def case_deposit_put() -> None:
    deposit().put(2, 0, None)
    deposit().put(3, 2**64 - 1, record())
    refused(deposit().put, NUMBER, 0, None)
    refused(deposit().put, 2, NUMBER * NUMBER, None)
    refused(deposit().put, 2, 0)


def case_deposit_take_back() -> None:
    ours = deposit()
    ours.put(2, 0, None)
    assert not ours.take_back(3)
    assert ours.take_back(2)
    refused(ours.take_back, PAYLOAD)


def case_deposit_left() -> None:
    ours = deposit()
    ours.put(2, 0, None)
    assert ours.left(3) == 2
    refused(ours.left, PAYLOAD)


def case_deposit_release() -> None:
    ours = deposit()
    for _ in range(2):
        ours.release()
    ours.put(2, 0, None)
    assert ours.take_back(2)


def case_find_deposit() -> None:
    table = mmap.mmap(-1, _native.DEPOSIT_BYTES)
    deposit(table).put(2, 0, None)
    assert _native.find_deposit(table, 7, 1, 2) == _native.NO_SLAB
    assert _native.find_deposit(table, 7, 1, 3) is None
    refused(_native.find_deposit, bytearray(8), 7, 1, 2)
    refused(_native.find_deposit, bytes(_native.DEPOSIT_BYTES), 7, 1, 2)
    refused(_native.find_deposit, table, NUMBER, 1, 2)


def case_lower_deposit() -> None:
    table = mmap.mmap(-1, _native.DEPOSIT_BYTES)
    deposit(table).put(3, 2**64 - 1, record())
    assert _native.lower_deposit(table, 7, 1, 3, 0, 2) == (64, 2**64 - 1)
    assert _native.lower_deposit(table, 7, 1, 3, 0, 2) is None
    refused(_native.lower_deposit, bytearray(8), 7, 1, 3, 0, 2)
    refused(_native.lower_deposit, table, 7, 1, 3, NUMBER, 2)
    refused(_native.lower_deposit, table, 7, 1, 3, 0)


def case_record() -> None:
    record()
    refused(_native.Record, bytearray(8), 0, 64)
    refused(_native.Record, b"fixed" * 200, 0, 64)
    refused(_native.Record, NUMBER, 0)


def case_record_publish() -> None:
    ours = record()
    ours.publish(NUMBER, PAYLOAD, 5)
    refused(ours.publish, NUMBER, bytes(65), 5)
    refused(ours.publish, NUMBER, NUMBER, 5)
    refused(ours.publish, NUMBER)


def case_record_set_use() -> None:
    record().set_use(True)


def case_record_release() -> None:
    ours = record()
    ours.release()
    ours.release()
    refused(ours.publish, NUMBER, PAYLOAD, 5)


def case_quicklock_offer() -> None:
    lock = quick_lock()
    refused(lock._offer, slot(), b"/", 5, 1, (1, 1), (1, 0, 0), 5, None)
    refused(lock._offer, slot(), b"/", itertools.count(), 1, (1, 1), (1, 0, 0), 5, PAYLOAD)
    refused(lock._offer, PAYLOAD, b"/", itertools.count(), 1, (1, 1), (1, 0, 0), 5, 1.5)
    refused(lock._offer, NUMBER)


def case_quicklock_withdraw() -> None:
    lock = quick_lock()
    lock._withdraw()
    lock._withdraw()
    assert not lock._take()


def case_quicklock_take() -> None:
    lock = quick_lock()
    assert lock._take()
    assert not lock._take()
    refused(Lock()._take, PAYLOAD)
    refused(Lock()._take, 1.0, 1.0)
    lock_in_turns()


def case_quicklock_settled() -> None:
    lock_in_turns()._settled()


def case_quicklock_asked() -> None:
    assert quick_lock()._asked is None
    asked = lock_in_turns()._asked
    assert asked is not None
    assert asked[0] == 2


def case_quicklock_until() -> None:
    assert quick_lock()._until is None
    assert lock_in_turns()._until is not None


def case_quicklock_mine() -> None:
    lock = quick_lock()
    assert lock._mine == 0
    lock._take()
    assert lock._mine == lock._quick == 1


def case_quicklock_waiting() -> None:
    assert lock_in_turns()._waiting == 0


def case_quicklock_give() -> None:
    lock = quick_lock()
    assert not lock._give()
    lock._take()
    assert lock._give()


def case_quicklock_take_over() -> None:
    lock = quick_lock()
    refused(lock._take_over)
    lock._take()
    lock._take_over()


def case_quicklock_taken_over() -> None:
    lock = quick_lock()
    lock._taken_over()
    lock = quick_lock()
    assert lock._take()
    assert lock._take_over()[2].fileno() > 0
    lock._taken_over()


def case_quicklock_quick() -> None:
    lock = quick_lock()
    lock._take()
    assert lock._quick == 1


def case_quicklock_enter() -> None:
    with quick_lock(), Lock():
        pass


def case_quicklock_exit() -> None:
    lock = quick_lock()
    lock.__enter__()
    lock.__exit__(None, None, None)
    lock.__exit__(NUMBER, PAYLOAD)


def case_delegation_begin() -> None:
    given = slot()
    given.begin(NUMBER, NUMBER)
    refused(given.begin, -1, 0)
    refused(given.begin, NUMBER)


def case_delegation_recall() -> None:
    given = slot()
    given.begin(1, NUMBER)
    given.set(4, NUMBER, 1, 0, NUMBER, 1, -1, -1)
    given.recall()


def case_delegation_look() -> None:
    given = slot()
    given.begin(1, NUMBER)
    given.set(4, NUMBER, 1, 0, NUMBER, 1, -1, -1)
    given.look()


def case_delegation_close() -> None:
    given = slot()
    given.close()
    given.close()


def case_tgkill() -> None:
    me = os.getpid()
    _native.tgkill(me, me, 0)
    refused(_native.tgkill, me, me)
    refused(_native.tgkill, me, -1, 0)
    refused(_native.tgkill, me, "1", 0)
    with contextlib.suppress(OSError):
        _native.tgkill(me, 1, 0)


def case_same_file() -> None:
    me = os.getpid()
    assert _native.same_file(me, 1, me, 1)
    refused(_native.same_file, me, 1, me)
    refused(_native.same_file, me, 1, me, NUMBER)
    with contextlib.suppress(OSError):
        _native.same_file(me, 1, me, 10**6)


def case_ignore_signal() -> None:
    _native.ignore_signal(signal.SIGURG)
    refused(_native.ignore_signal, -1)
    refused(_native.ignore_signal, "9")
    with contextlib.suppress(OSError):
        _native.ignore_signal(signal.SIGKILL)


def case_block_signals() -> None:
    before = _native.block_signals(1 << (signal.SIGURG - 1))
    refused(_native.block_signals, -1)
    refused(_native.block_signals, 2**64)
    _native.set_blocked(before)


def case_children() -> None:
    with contextlib.suppress(OSError):
        _native.children()


def case_note_process() -> None:
    page = bytearray(8)
    _native.note_process(page)
    assert int.from_bytes(page, sys.byteorder) == os.getpid()
    refused(_native.note_process, bytearray(7))
    refused(_native.note_process, bytes(8))


def case_notify() -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        _native.notify(fd)
        refused(_native.notify, "1")
    finally:
        os.close(fd)
    with contextlib.suppress(OSError):
        _native.notify(fd)


def case_set_blocked() -> None:
    _native.set_blocked(_native.set_blocked(0))
    refused(_native.set_blocked, "9")


def case_pack_frames() -> None:
    _native.pack_frames(NUMBER, NUMBER, 64, NUMBER, PAYLOAD)
    _native.pack_frames(NUMBER, NUMBER, 64, NUMBER, BYTES)
    refused(_native.pack_frames, NUMBER, NUMBER, 64, 2**70, PAYLOAD)
    refused(_native.pack_frames, NUMBER, NUMBER, 64, NUMBER, "text")
    refused(_native.pack_frames, NUMBER, NUMBER, 64, NUMBER, memoryview(PAYLOAD)[::2])
    refused(_native.pack_frames, NUMBER, NUMBER, 64, NUMBER)


def case_unpack_frames() -> None:
    header = _native.pack_header(64, NUMBER, LARGE)
    _native.unpack_frames([ENVELOPE, MESSAGE], NUMBER)
    _native.unpack_frames([ENVELOPE, header, BYTES], NUMBER)
    refused(_native.unpack_frames, [ENVELOPE, MESSAGE], 20)
    refused(_native.unpack_frames, [ENVELOPE, header, BYTES], LARGE)
    refused(_native.unpack_frames, [ENVELOPE, MESSAGE, BYTES], NUMBER)
    refused(_native.unpack_frames, [ENVELOPE, header, PAYLOAD], NUMBER)
    refused(_native.unpack_frames, [PAYLOAD, MESSAGE], NUMBER)
    refused(_native.unpack_frames, [TICKET, MESSAGE], NUMBER)
    refused(_native.unpack_frames, [ENVELOPE, TICKET], NUMBER)
    refused(_native.unpack_frames, [ENVELOPE], NUMBER)
    refused(_native.unpack_frames, [ENVELOPE, MESSAGE], -1)
    refused(_native.unpack_frames, (ENVELOPE, MESSAGE), NUMBER)


def case_malformed() -> None:
    with contextlib.suppress(Malformed):
        raise Malformed("text")


def case_layout() -> None:
    Layout("QQi", NUMBER)
    refused(Layout, "QQx")
    refused(Layout, "Q" * 17)
    refused(Layout, "Q", -1)
    refused(Layout, "\ud800")
    refused(Layout, b"Q")


def case_layout_fields() -> None:
    assert LAYOUT.fields == "QQi"


def case_layout_size() -> None:
    assert LAYOUT.size == 20


def case_layout_tail() -> None:
    assert LAYOUT.tail == 40


def case_layout_repr() -> None:
    repr(LAYOUT)


def case_layout_pack() -> None:
    LAYOUT.pack(NUMBER, NUMBER, 1)
    LAYOUT.pack(NUMBER, NUMBER, 1, tail=PAYLOAD)
    refused(LAYOUT.pack, NUMBER, NUMBER, NUMBER, tail=PAYLOAD)
    refused(LAYOUT.pack, NUMBER, NUMBER, "1", tail=PAYLOAD)
    refused(LAYOUT.pack, NUMBER, NUMBER, 1, tail=PAYLOAD * 2)
    refused(LAYOUT.pack, NUMBER, NUMBER, 1, tail="text")
    refused(LAYOUT.pack, NUMBER, NUMBER, 1, other=PAYLOAD)
    refused(LAYOUT.pack, NUMBER)


def case_layout_unpack() -> None:
    LAYOUT.unpack(PAYLOAD)
    refused(LAYOUT.unpack, PAYLOAD[:3])
    refused(LAYOUT.unpack, "text")


def case_outstanding() -> None:
    Outstanding()
    refused(Outstanding, NUMBER)
    full = Outstanding()
    for peer in range(20):
        full.add(peer, TICKET)
    cycle = Outstanding()
    cycle.add(1, cycle)


def case_outstanding_add() -> None:
    table = Outstanding()
    for _ in range(20):
        table.add(1, TICKET)
        table.add(peer=2, ticket=TICKET)
        refused(table.add, NUMBER, TICKET)
        refused(table.add, 1)


def full_table() -> Outstanding:
    table = Outstanding()
    for peer in (1, 2, 1):
        table.add(peer, TICKET)
    return table


def case_outstanding_take() -> None:
    table = full_table()
    assert table.take(1, 1) is TICKET
    assert table.take(1, 1) is None
    assert table.take(2, 1) is None
    refused(table.take, -1, 1)
    refused(table.take, 1, NUMBER)


def case_outstanding_discard() -> None:
    table = full_table()
    assert table.discard(1) is TICKET
    assert table.discard(NUMBER) is None
    refused(table.discard, -1)


def case_outstanding_peer_of() -> None:
    table = full_table()
    assert table.peer_of(2) == 2
    assert table.peer_of(NUMBER) is None
    refused(table.peer_of, "1")


def case_outstanding_fail_peer() -> None:
    table = full_table()
    assert table.fail_peer(1) == [TICKET, TICKET]
    assert table.fail_peer(1) == []
    refused(table.fail_peer, NUMBER)


def case_outstanding_of_peer() -> None:
    table = full_table()
    assert table.of_peer(1) == [(1, TICKET), (3, TICKET)]
    assert table.of_peer(7) == []
    refused(table.of_peer, NUMBER)


def case_outstanding_move() -> None:
    table = full_table()
    assert table.move(1, 2)
    assert not table.move(NUMBER, 2)
    refused(table.move, 1, NUMBER)
    refused(table.move, 1)


def case_exchange_word() -> None:
    memory = bytearray(16)
    assert exchange_word(memory, 8, 0, NUMBER) == 0
    assert exchange_word(memory, 8, 0, 1) == NUMBER
    refused(exchange_word, memory, 1, 0, 0)
    refused(exchange_word, memory, 16, 0, 0)
    refused(exchange_word, b"12345678", 0, 0, 0)
    refused(exchange_word, memory, 0, 0)


def case_outstanding_drain() -> None:
    table = full_table()
    assert table.drain() == [TICKET] * 3
    assert table.drain() == []


def case_outstanding_last() -> None:
    assert full_table().last == 3


def case_outstanding_len() -> None:
    assert len(full_table()) == 3


def full_ledger() -> Ledger:
    ledger = Ledger()
    for _ in range(20):
        ledger.stamp(TICKET, 1, 0)  # type: ignore[arg-type]
    return ledger


def case_ledger() -> None:
    Ledger()
    full_ledger()
    cycle: Any = Ledger()
    cycle.stamp(cycle, 1, 0)


def case_ledger_stamp() -> None:
    ledger: Any = Ledger()
    for _ in range(20):
        ledger.stamp(TICKET, NUMBER, NUMBER)
    refused(ledger.stamp, TICKET, 2**70, NUMBER)
    refused(ledger.stamp, TICKET, NUMBER, "text")
    refused(ledger.stamp, TICKET, NUMBER)


def case_ledger_receive() -> None:
    ledger = full_ledger()
    ledger.delivered = NUMBER - 1
    assert ledger.receive(NUMBER, 7, NUMBER, NUMBER) == _native.NEXT
    assert ledger.receive(0, 20, 0, 0) == _native.DRAINED
    refused(ledger.receive, NUMBER, NUMBER, NUMBER, NUMBER)
    refused(ledger.receive, NUMBER, 2**70, NUMBER, NUMBER)
    refused(ledger.receive, NUMBER, 7, NUMBER, "text")
    refused(ledger.receive, NUMBER)


def case_ledger_acknowledge() -> None:
    ledger = Ledger()
    ledger.delivered = NUMBER
    assert ledger.acknowledge() == NUMBER
    refused(ledger.acknowledge, NUMBER)


def case_ledger_ack_due() -> None:
    assert not Ledger().ack_due(NUMBER)
    refused(Ledger().ack_due, -1)


def case_ledger_has_room() -> None:
    assert full_ledger().has_room(NUMBER, 2 * NUMBER)
    refused(Ledger().has_room, NUMBER, -1)
    refused(Ledger().has_room, NUMBER)


def case_ledger_consume() -> None:
    assert Ledger().consume(NUMBER, NUMBER)
    refused(Ledger().consume, NUMBER, -1)
    refused(Ledger().consume, NUMBER)


def case_ledger_kept() -> None:
    ledger = full_ledger()
    assert ledger.kept == [(number, TICKET) for number in range(1, 21)]


def case_ledger_sent() -> None:
    assert full_ledger().sent == 20


def case_ledger_acked() -> None:
    assert full_ledger().acked == 0


def case_ledger_starving() -> None:
    Ledger().starving = True
    refused(setattr, Ledger(), "starving", NUMBER)


def assign(name: str) -> None:
    ledger = Ledger()
    setattr(ledger, name, NUMBER)
    assert getattr(ledger, name) == NUMBER
    refused(setattr, ledger, name, "text")
    refused(setattr, ledger, name, 10**400)
    refused(delattr, ledger, name)


case_ledger_sent_bytes = partial(assign, "sent_bytes")
case_ledger_credited = partial(assign, "credited")
case_ledger_delivered = partial(assign, "delivered")
case_ledger_announced_ack = partial(assign, "announced_ack")
case_ledger_received_bytes = partial(assign, "received_bytes")
case_ledger_consumed = partial(assign, "consumed")
case_ledger_announced_credit = partial(assign, "announced_credit")
case_ledger_probe_at = partial(assign, "probe_at")
case_ledger_probe_interval = partial(assign, "probe_interval")


@contextlib.contextmanager
def sockets() -> Iterator[tuple[Port, Port]]:
    """What the first sends as (route, frames), the second receives from a route of its own."""
    module = sys.modules[zmq.backend.Socket.__module__].__file__
    assert module is not None
    context = zmq.Context(0)  # no threads: within this process none are needed
    sending, receiving = context.socket(zmq.DEALER), context.socket(zmq.ROUTER)
    receiving.bind("inproc://leaks")
    sending.connect("inproc://leaks")
    try:
        yield Port(module, sending.underlying), Port(module, receiving.underlying)
    finally:
        context.destroy(0)


def case_port() -> None:
    with sockets():
        pass
    refused(Port, None, 1)
    refused(Port, "", -1)
    with contextlib.suppress(OSError):
        Port("", NUMBER)
    with contextlib.suppress(OSError):
        Port("/nowhere", NUMBER)


def case_port_send() -> None:
    with sockets() as (out, _):
        assert out.send(PAYLOAD, (PAYLOAD, MESSAGE, bytes(70_000)))
        refused(out.send, PAYLOAD, (PAYLOAD, "text"))
        refused(out.send, PAYLOAD, ())
        refused(out.send, PAYLOAD, [PAYLOAD])


def case_port_receive() -> None:
    with sockets() as (out, into):
        for _ in range(2):
            assert out.send(
                PAYLOAD,
                (
                    PAYLOAD,
                    MESSAGE,
                    bytes(70_000),
                    b"",
                ),
            )
        route, _, _, frames = into.receive({})  # type: ignore[misc]
        assert frames[:2] == [PAYLOAD, PAYLOAD]
        assert into.receive({route: TICKET})[0] is TICKET  # type: ignore[index]
        assert into.receive({}) is None
        refused(into.receive, [])


def case_port_close() -> None:
    with sockets() as (out, into):
        out.close()
        into.close()
        refused(out.send, PAYLOAD, (PAYLOAD,))
        refused(into.receive, {})


def case_lane_settle() -> None:
    shared = memory(4096 + (1 << 18))
    one, other = Lane(shared, True), Lane(shared, False)
    one.send(1, 0, 70, 0, bytes(100_000))
    assert one.window == 1 << 17
    assert other.receive(1 << 20) is not None
    one.settle(True)
    one.send(1, 0, 70, 0, bytes(1 << 18))
    one.close()
    other.close()


def case_lane_remind() -> None:
    one, other = lane()
    one.send(1, 0, 70, 0, PAYLOAD)
    assert not one.remind()
    assert other.remind()


def case_lane_ring() -> None:
    one, _ = lane()
    one.send(1, 0, 70, 0, PAYLOAD)
    one.ring()


def case_lane_quiet() -> None:
    one, _ = lane()
    one.quiet = True
    one.send(1, 0, 70, 0, PAYLOAD)
    assert one.quiet
    refused(setattr, one, "quiet", PAYLOAD)


def case_lane_window() -> None:
    one, _ = lane()
    assert one.window == 4096


def case_lane_most() -> None:
    one = Lane(memory(4096 + (1 << 16)), True)
    one.most = 8192
    assert one.most == 8192
    refused(setattr, one, "most", 5)
    refused(setattr, one, "most", PAYLOAD)


def lane() -> tuple[Lane, Lane]:
    shared = memory(4096 * 3)
    return Lane(shared, True), Lane(shared, False)


def case_shared() -> None:
    memory(4096)
    made = Shared(4096)
    for refuse in (lambda: memory(4096, 0), lambda: Shared(8192, f"/proc/self/fd/{made.fileno()}")):
        with contextlib.suppress(OSError):
            refuse()
            raise AssertionError("not refused")
    refused(Shared, -1)


def case_shared_fileno() -> None:
    assert os.fstat(Shared(4096).fileno())


def case_shared_close() -> None:
    given = Shared(4096)
    given.close()
    given.close()
    assert given.fileno() == -1


if hasattr(Shared, "__buffer__"):

    def case_shared_buffer() -> None:
        memoryview(memory(4096)).release()


def case_doorbell() -> None:
    Doorbell(memory(4096))
    refused(Doorbell, PAYLOAD)
    refused(Doorbell, memory(64))


def case_doorbell_sleep() -> None:
    bell = Doorbell(memory(4096))
    assert not bell.sleep(SEAT, 0)
    bell.nudge(PORTER)
    assert bell.sleep(PORTER, None)
    refused(bell.sleep, 4, None)
    refused(bell.sleep, SEAT, PAYLOAD)


def case_doorbell_sit() -> None:
    Doorbell(memory(4096)).sit()


def case_doorbell_stand() -> None:
    bell = Doorbell(memory(4096))
    bell.sit()
    bell.again(3)
    assert bell.stand()


def case_doorbell_rest() -> None:
    bell = Doorbell(memory(4096))
    bell.again(3)
    bell.take()
    bell.rest()


def case_doorbell_take() -> None:
    bell = Doorbell(memory(4096))
    bell.again(1000)
    bell.again(0)
    assert bell.take() == [0, 1000]
    assert bell.take() == []


def case_doorbell_again() -> None:
    refused(Doorbell(memory(4096)).again, NUMBER)
    Doorbell(memory(4096)).again(7)


def case_doorbell_nudge() -> None:
    Doorbell(memory(4096)).nudge(SEAT)
    refused(Doorbell(memory(4096)).nudge, NUMBER)


def case_lane() -> None:
    lane()
    refused(Lane, PAYLOAD, True)
    refused(Lane, memory(4096), True)


def case_lane_reach() -> None:
    one, _ = lane()
    bell = memory(4096)
    one.reach(bell, 3)
    one.reach(bell, 4)
    refused(one.reach, PAYLOAD, 3)
    refused(one.reach, bell, NUMBER)
    refused(one.reach, memory(64), 3)


def case_lane_send() -> None:
    one, _ = lane()
    one.send(NUMBER, NUMBER, 64, NUMBER, PAYLOAD)  # type: ignore[arg-type]
    one.send(NUMBER, NUMBER, 64, NUMBER, BYTES)
    one.send(NUMBER, NUMBER, 64, NUMBER, BYTES)
    refused(one.send, NUMBER, NUMBER, 256, NUMBER, BYTES)
    refused(one.send, NUMBER, NUMBER, 64, NUMBER, TICKET)


def case_lane_flush() -> None:
    one, other = lane()
    one.send(NUMBER, NUMBER, 64, NUMBER, BYTES)
    while one.waits:
        other.receive(10**6)
        one.flush()


def case_lane_waits() -> None:
    one, _ = lane()
    assert not one.waits
    one.send(NUMBER, NUMBER, 64, NUMBER, BYTES)
    assert one.waits


def case_lane_receive() -> None:
    one, other = lane()
    assert other.receive(10**6) is None
    one.send(NUMBER, NUMBER, 64, NUMBER, PAYLOAD)  # type: ignore[arg-type]
    assert other.receive(10**6) == (NUMBER, NUMBER, 64, NUMBER, PAYLOAD)
    one.send(NUMBER, NUMBER, 64, NUMBER, BYTES)
    assert other.receive(10**6) is None, "half of it"
    one.send(NUMBER, NUMBER, 64, NUMBER, BYTES)
    refused(other.receive, -1)
    late = lane()
    late[0].send(NUMBER, NUMBER, 64, NUMBER, bytes(100))
    refused(late[1].receive, 50)


def case_lane_close() -> None:
    one, other = lane()
    one.send(NUMBER, NUMBER, 64, NUMBER, BYTES)
    other.receive(10**6)
    one.close()
    other.close()
    refused(one.flush)


def case_ticket() -> None:
    Ticket().resolve(Ticket())
    refused(Ticket, NUMBER)


def case_ticket_future() -> None:
    landing = Landing()
    assert Ticket(landing, TICKET).future is TICKET
    refused(Ticket, landing)
    refused(Ticket, TICKET, TICKET)
    assert not hasattr(Ticket(), "future")


def landed(landing: Landing) -> Ticket:
    """A ticket that has landed, in a cycle with what waits for it."""
    waits: list[object] = []
    ticket = Ticket(landing, waits)  # type: ignore[arg-type]
    waits.append(ticket)
    ticket.resolve((landing, BYTES))
    return ticket


def case_landing() -> None:
    landed(Landing())
    refused(Landing, TICKET)


def case_landing_take() -> None:
    landing, found = Landing(), []
    for _ in range(3):
        landed(landing)
    landing.take(found)
    landing.take(found)
    assert len(found) == 3
    refused(landing.take, (TICKET,))


def case_landing_call() -> None:
    Landing().call()


def case_landing_fileno() -> None:
    landing = Landing()
    assert landing.fileno() >= 0
    landing.close()
    assert landing.fileno() == -1


def case_landing_close() -> None:
    landing = Landing()
    landed(landing)
    landing.close()
    landed(landing)
    landing.close()


def case_landing_attending() -> None:
    Landing().attending = True


def case_landing_landed() -> None:
    landing = Landing()
    landed(landing)
    assert landing.landed == 1


def case_ticket_resolve() -> None:
    ticket = Ticket()
    ticket.resolve(BYTES)
    with contextlib.suppress(RuntimeError):
        ticket.resolve(BYTES)
    itself = Ticket()
    itself.resolve((itself,))  # a cycle


def case_ticket_fail() -> None:
    ticket = Ticket()
    refused(ticket.fail, BYTES)
    ticket.fail(ValueError(ticket))


def case_ticket_settled() -> None:
    assert not Ticket().settled()


def case_ticket_succeeded() -> None:
    assert not Ticket().succeeded()


def case_ticket_wait() -> None:
    assert not Ticket().wait(0)
    refused(Ticket().wait, PAYLOAD)


def case_ticket_result() -> None:
    ticket = Ticket()
    with contextlib.suppress(RuntimeError):
        ticket.result()
    ticket.resolve(BYTES)
    assert ticket.result() is BYTES
    failed = Ticket()
    failed.fail(ValueError(BYTES))
    refused(failed.result)
    with pytest.raises(RuntimeError, match="raised before"):
        failed.result()


def case_ticket_number() -> None:
    assert Ticket().number == 0


def case_lock() -> None:
    _native.Lock()
    refused(_native.Lock, TICKET)


def case_lock_acquire() -> None:
    lock = _native.Lock()
    assert lock.acquire()
    assert not lock.acquire(False)
    assert not lock.acquire(timeout=0.0001)
    refused(lock.acquire, TICKET, TICKET)
    other = threading.Thread(target=lock.acquire)
    other.start()
    lock.release()
    other.join()


def case_lock_release() -> None:
    with contextlib.suppress(RuntimeError):
        _native.Lock().release()


def case_lock_locked() -> None:
    assert not _native.Lock().locked()


def case_lock_enter() -> None:
    with _native.Lock():
        pass


def case_lock_exit() -> None:
    case_lock_enter()


def exchange(shared: Shared | None = None, *, first: bool = True) -> tuple[Exchange, Doorbell]:
    """One with peer 3 at line 5, who rings our own bell."""
    bell_memory = memory(4096)
    bell = Doorbell(bell_memory)
    own = Lane(shared or memory(4096 * 3), first)
    own.reach(bell_memory, 5)
    locks = (_native.Lock(), _native.Lock(), _native.Lock())
    made = Exchange(bell, Outstanding(), *locks, Message, Outgoing, hash, 10**6, 10**6, 1)
    made.connect(3, 5, own, Ledger())
    made.read_from(3)
    made.write(3)
    return made, bell


def both() -> tuple[Exchange, Exchange, Doorbell]:
    shared = memory(4096 * 3)
    one, other = exchange(shared), exchange(shared, first=False)
    return one[0], other[0], other[1]


def case_exchange() -> None:
    exchange()
    refused(Exchange, PAYLOAD)
    bell = Doorbell(memory(4096))
    refused(Exchange, bell, TICKET, *[_native.Lock()] * 3, Message, Outgoing, hash, 1, 1, 1)
    refused(Exchange, bell, Outstanding(), *[_native.Lock()] * 3, int, Outgoing, hash, 1, 1, 1)
    refused(
        Exchange, bell, Outstanding(), *[threading.Lock()] * 3, Message, Outgoing, hash, 1, 1, 1
    )
    cyclic = Outstanding()
    made = Exchange(bell, cyclic, *[_native.Lock()] * 3, Message, Outgoing, hash, 1, 1, 1)
    cyclic.add(3, made)


def case_exchange_connect() -> None:
    made, _ = exchange()
    refused(made.connect, 3, 6, Lane(memory(4096 * 3), True), Ledger())
    refused(made.connect, 4, 6, Lane(memory(4096 * 3), True), TICKET)
    refused(made.connect, 4, NUMBER, TICKET, TICKET)


def case_exchange_write() -> None:
    refused(exchange()[0].write, 4)
    refused(exchange()[0].write, NUMBER)


def case_exchange_read_from() -> None:
    refused(exchange()[0].read_from, 4)


def case_exchange_disconnect() -> None:
    made, _ = exchange()
    made.disconnect(4)
    made.disconnect(3)
    refused(made.disconnect, NUMBER)


def case_exchange_close() -> None:
    made, _ = exchange()
    made.close()
    made.connect(3, 5, Lane(memory(4096 * 3), True), Ledger())


def case_exchange_send() -> None:
    made, _ = exchange()
    assert made.send(3, 70, NUMBER, BYTES[:100])
    assert made.send(3, 70, NUMBER, BYTES)  # waits for room
    assert not made.send(3, 70, NUMBER, memoryview(BYTES))
    assert not made.send(4, 70, NUMBER, BYTES)
    refused(made.send, 3, 256, NUMBER, BYTES)
    refused(made.send, 3, 70, NUMBER, TICKET)


def case_exchange_read() -> None:
    one, other, bell = both()
    assert one.send(3, 70, NUMBER, BYTES[:100])
    bell.again(5)
    found = other.read()
    assert found is not None
    assert found[0] == [(3, 70, NUMBER, BYTES[:100])]
    assert found[2] == [3]
    assert other.read() is None


def case_exchange_call() -> None:
    one, other, bell = both()
    ticket = Ticket()
    assert one.call(3, 70, BYTES[:100], ticket, 0) is False
    bell.again(5)
    other.read()
    assert one.call(4, 70, BYTES[:100], Ticket(), 0) is None
    assert one.call(3, 70, memoryview(BYTES), Ticket(), 0) is None
    refused(one.call, 3, 70, TICKET, ticket, 0)
    refused(one.call, 3, 70, BYTES, TICKET, 0)
    other.send(3, 0, ticket.number, BYTES[:50])
    one.call(3, 70, BYTES[:100], Ticket(), 0)


def case_exchange_request() -> None:
    one, other, bell = both()
    ticket = Ticket(Landing(), TICKET)
    assert one.request(3, 70, BYTES[:100], ticket)
    bell.again(5)
    other.read()
    other.send(3, 0, ticket.number, BYTES[:50])
    one.request(3, 70, BYTES[:100], Ticket())
    assert not one.request(4, 70, BYTES[:100], Ticket())
    assert not one.request(3, 70, memoryview(BYTES), Ticket())
    refused(one.request, 3, 70, BYTES, TICKET)


def case_exchange_look() -> None:
    one, other, bell = both()
    ticket = Ticket()
    one.request(3, 70, BYTES[:100], ticket)
    bell.again(5)
    other.read()
    other.send(3, 0, ticket.number, BYTES[:50])
    one.look(0.0)
    one.look(1e-6)
    refused(one.look, TICKET)


def case_exchange_waiting() -> None:
    assert not exchange()[0].waiting


def case_exchange_halted() -> None:
    made, _ = exchange()
    made.halted = True
    assert made.call(3, 70, BYTES[:100], Ticket(), 0) is False


def case_exchange_watched() -> None:
    exchange()[0].watched = True


def case_exchange_wanted() -> None:
    exchange()[0].wanted = True


def case_exchange_unclocked() -> None:
    exchange()[0].unclocked = True


def case_exchange_tick_at() -> None:
    exchange()[0].tick_at = 1e9
    refused(setattr, exchange()[0], "tick_at", TICKET)


def case_exchange_inside() -> None:
    assert exchange()[0].inside == 0


def case_exchange_ping() -> None:
    shared, theirs = memory(4096 * 3), memory(4096)
    one, _ = exchange(shared)
    assert one.ping(3, None) is None
    refused(one.ping, NUMBER, None)
    refused(one.ping, 3, TICKET)
    asking = Lane(shared, True)
    asking.reach(theirs, 5)
    made = Exchange(
        Doorbell(memory(4096)),
        Outstanding(),
        *[_native.Lock()] * 3,
        Message,
        Outgoing,
        hash,
        1,
        1,
        1,
    )
    made.connect(3, 5, asking, Ledger())
    made.read_from(3)
    made.write(3)
    clerk = Clerk(theirs)
    clerk.serve(5, Lane(shared, False))
    clerk.start()
    assert made.ping(3, None)
    clerk.stop()


def case_clerk() -> None:
    Clerk(memory(4096))
    refused(Clerk, memory(64))
    refused(Clerk, PAYLOAD)
    case_clerk_serve()


def case_clerk_serve() -> None:
    clerk = Clerk(memory(4096))
    lane = Lane(memory(4096 * 3), True)
    clerk.serve(3, lane)
    clerk.serve(40, lane)
    clerk.serve(40, Lane(memory(4096 * 3), True))
    refused(clerk.serve, 3, TICKET)
    refused(clerk.serve, NUMBER, lane)
    lane.close()
    refused(clerk.serve, 3, lane)


def case_clerk_leave() -> None:
    clerk = Clerk(memory(4096))
    clerk.serve(3, Lane(memory(4096 * 3), True))
    clerk.leave(3)
    clerk.leave(30)
    refused(clerk.leave, NUMBER)


def case_clerk_start() -> None:
    clerk = Clerk(memory(4096))
    clerk.start()
    clerk.serve(3, Lane(memory(4096 * 3), True))


def case_clerk_stop() -> None:
    clerk = Clerk(memory(4096))
    clerk.serve(3, Lane(memory(4096 * 3), True))
    clerk.stop()
    clerk.start()
    clerk.stop()
    clerk.start()


def case_clerk_running() -> None:
    assert not Clerk(memory(4096)).running


def case_exchange_ask() -> None:
    one, _, _ = both()
    assert one.ask(3, 70, BYTES[:100], 0) is False
    assert one.ask(3, 70, memoryview(BYTES), None) is None
    assert one.ask(NUMBER, 70, BYTES[:100], None) is None
    refused(one.ask, 3, 70, BYTES, TICKET)


def case_exchange_post() -> None:
    one, _, _ = both()
    assert one.post(3, 70, BYTES[:100]) is True
    assert one.post(3, 70, PAYLOAD) is False
    assert one.post(3, NUMBER, BYTES) is False
    refused(one.post, 3)


def case_exchange_post_many() -> None:
    one, _, _ = both()
    assert one.post_many(3, 70, (BYTES[:100], BYTES[:50], NUMBER, BYTES), 0) == 2
    assert one.post_many(3, NUMBER, (BYTES,), 0) == 0
    refused(one.post_many, 3, 70, [BYTES], 0)


def case_exchange_post_all() -> None:
    one, _, _ = both()
    assert one.post_all((3, NUMBER % 2**32, 9), 70, BYTES[:100]) == [NUMBER % 2**32, 9]
    refused(one.post_all, (3, TICKET), 70, BYTES[:100])
    refused(one.post_all, [3], 70, BYTES[:100])


class Host:
    """Serves until everything is read; what it is told goes nowhere."""

    def __init__(self) -> None:
        self.looks = iter([0, 1, 0, 1])
        self.queue = [None, Message(9, 70, 0, BYTES[:10])]

    def queued(self) -> int:
        return next(self.looks)

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name == "failed":
            return self.raises
        if name == "take":
            return self.queue.pop
        return lambda *arguments: None

    def raises(self, replies: object, message: Message, error: BaseException) -> None:
        if isinstance(error, KeyError):
            raise error


def case_exchange_serve() -> None:
    def fails(message: Message) -> None:
        raise {71: ValueError, 72: KeyError}[message.code]

    handlers = {
        70: (lambda message: message.payload, None, bytes),
        71: (fails, None, bytes),
        72: (fails, None, bytes),
        73: (lambda value, message: [1], int, bytes),
    }
    one, other, bell = both()
    for code in (70, 71, 73, 74, 72, 70):
        one.post(3, code, BYTES[:100])
    one.send(3, 70, NUMBER, BYTES[:100])
    one.send(3, 1, 0, b"")
    bell.again(5)
    host = Host()
    refused(other.serve, host, host, [], host.queued, False)
    with contextlib.suppress(KeyError):
        other.serve(host, host, handlers, host.queued, False)
    other.serve(host, host, handlers, host.queued, True)
    serve_batches()


def serve_batches() -> None:
    def raises(messages: list[Message]) -> None:
        raise ValueError(messages)

    handlers = {
        70: (len, None),
        71: (raises, None),
        72: (lambda values, messages: None, int),
        73: (None, None),
    }
    one, other, bell = both()
    for code in (70, 70, 71, 71, 72, 72, 73, 73):
        one.post(3, code, BYTES[:100])
    one.send(3, 70, NUMBER, BYTES[:100])
    bell.again(3)
    host = Host()
    other.serve(host, host, handlers, host.queued, False)
    other.handle(host, host, handlers, Message(5, 71, 0, b"1"))
    vars(host)["gather"] = lambda run, serves: run.append(Message(5, 70, 0, b"2"))
    other.handle(host, host, handlers, Message(5, 70, 0, b"1"))
    vars(host)["gather"] = lambda run, serves: run.append(NUMBER)
    refused(other.handle, host, host, handlers, Message(5, 70, 0, b"1"))


class Known:
    heard = 4


def case_exchange_reach() -> None:
    made, _ = exchange()
    with sockets() as (out, _):
        for _ in range(2):
            made.reach(4, out, b"route", Ledger())
        assert made.send(4, 70, NUMBER, BYTES[:100])
        assert made.ask(4, 70, BYTES[:100], 0) is False
        refused(made.reach, 4, out, b"route", TICKET)
        refused(made.reach, NUMBER, out, b"route", Ledger())


def case_exchange_unreach() -> None:
    made, _ = exchange()
    with sockets() as (out, _):
        made.reach(4, out, b"route", Ledger())
        made.unreach(4)
        made.unreach(4)
    refused(made.unreach, TICKET)


def case_exchange_take_in() -> None:
    made, _ = exchange()
    known: dict[bytes, Known] = {}
    with sockets() as (out, into):
        made.reach(4, out, b"route", Ledger())
        # What a DEALER calls a route is one frame more.
        assert out.send(b"first", (PAYLOAD,))
        arrived = made.take_in(into, known)[2]
        assert isinstance(arrived, tuple)
        known[arrived[0]] = Known()  # type: ignore[index]
        for number in (1, 2):
            assert out.send(
                _native.pack_envelope(number, 0), (_native.pack_message(70, 0, BYTES[:99]),)
            )
        assert out.send(b"other", (bytes(70_000), PAYLOAD, b""))
        messages, news, left = made.take_in(into, known)
        assert (len(messages), news) == (2, [4, 4])
        assert isinstance(left, tuple)
        known = dict.fromkeys(known, TICKET)  # type: ignore[arg-type]
        assert out.send(_native.pack_envelope(3, 0), (_native.pack_message(70, 0, BYTES[:99]),))
        with contextlib.suppress(AttributeError):
            made.take_in(into, known)
        refused(made.take_in, into, [])
        refused(made.take_in, PAYLOAD, known)


def case_exchange_handle() -> None:
    made, _ = exchange()
    host = Host()
    handlers = {70: (lambda message: message.payload, None, bytes)}
    made.handle(host, host, handlers, Message(3, 70, NUMBER, BYTES[:10]))
    made.handle(host, host, handlers, Message(9, 71, NUMBER, BYTES[:10]))
    refused(made.handle, host, host, handlers, (3, 70, NUMBER, BYTES[:10]))


def case_exchange_left() -> None:
    assert exchange()[0].left() == ([], [])


def case_exchange_withdraw() -> None:
    one, other, bell = both()
    one.send(3, 70, NUMBER, BYTES[:100])
    one.send(3, 70, NUMBER + 1, BYTES[:100])
    bell.again(5)
    withdraws = (lambda message: other.withdraw(3, NUMBER + 1), None, bytes)
    host = Host()
    other.serve(host, host, {70: withdraws}, host.queued, False)
    refused(other.withdraw, TICKET, TICKET)


CASES: dict[str, Callable[[], None]] = {
    name.removeprefix("case_"): value
    for name, value in list(globals().items())
    if name.startswith("case_")
}
CASES |= OF_LOCAL_IDS


#: What types have for themselves.
NO_ATTRIBUTES = ("__new__", "__doc__", "__module__", "__vectorcalloffset__")


def names_of_module() -> Iterator[str]:
    """Every function and type, and of the types every method and attribute in Python's reach."""
    for name, value in vars(_native).items():
        if isinstance(value, type):
            yield name.lower()
            for member in vars(value):
                if value is not Malformed and member not in NO_ATTRIBUTES:
                    yield f"{name}_{member.strip('_')}".lower()
        elif callable(value) and not name.startswith("__"):
            yield name


def test_everything_has_a_leak_test() -> None:
    assert set(CASES) == set(names_of_module())


def references() -> list[int]:
    return [sys.getrefcount(thing) for thing in WATCHED]


@pytest.mark.parametrize("name", CASES)
def test_leaks_nothing(name: str) -> None:
    case = CASES[name]

    def measure() -> tuple[Any, ...]:
        gc.collect()
        return tracemalloc.get_traced_memory()[0], sys.getallocatedblocks(), references()

    def grows() -> bool:
        size, blocks, counts = measure()
        for _ in range(ROUNDS):
            case()
        size_after, blocks_after, counts_after = measure()
        assert counts_after == counts
        # An object lost in each round would be 16 bytes and a block each.
        return size_after - size >= 8 * ROUNDS or blocks_after - blocks >= ROUNDS // 2

    tracemalloc.start()
    try:
        for _ in range(20):
            case()
        # What a stray thread of the test runner came to own meanwhile, it does so once.
        assert not all(grows() for _ in range(3))
    finally:
        tracemalloc.stop()
