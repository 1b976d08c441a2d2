"""What a process has of a handle and does not use: the memory in which it lies, and real processes
from which it is taken while they can do nothing."""

from __future__ import annotations

import mmap
import os
import random
import signal
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import both_leaders
from hypothesis import given
from hypothesis import strategies as st
from processes import DEADLINE_S, Forked, Line, leaders, poll
from simulator.deposits import DepositsTwin, DepositTwin, Memory
from sync_users import EXCLUSIVE, SHARED, Stuck, waiting_at

from libos_ipc import Group, State
from libos_ipc._native import (
    DEPOSIT_BYTES,
    DEPOSIT_CELLS,
    DEPOSIT_PROBES,
    NO_SLAB,
    Deposit,
    HandleCell,
    find_deposit,
    lower_deposit,
)
from libos_ipc.core.sync_deposits import Taken
from libos_ipc.core.sync_handle import LocalHandle
from libos_ipc.core.sync_words import ConfirmUpgrade, Remains, Value
from libos_ipc.errors import WouldBlock
from libos_ipc.runtime.deposits import MOST_MAPPED, LeadersDeposits, MembersDeposits
from libos_ipc.runtime.slabs import LARGE, Slabs
from libos_ipc.sync import SyncHandle

INVALID = State.INVALID
NOTHING = Taken(None, 0)

# ---- the memory


def leader_of(memory: Memory) -> DepositsTwin:
    return DepositsTwin(memory, lambda vmid, id: Remains(None, False))


STATES, EPOCHS = st.integers(1, 3), st.integers(1, 2)
STEPS = st.one_of(
    st.tuples(st.just("put"), STATES, st.integers(0, 2**64 - 1)),
    st.tuples(st.sampled_from(["take_back", "left"]), STATES),
    st.tuples(st.just("lower"), EPOCHS, STATES, STATES),
)


@given(EPOCHS, st.lists(STEPS, max_size=30))
def test_the_memory_is_as_its_twin(epoch: int, steps: list[tuple[Any, ...]]) -> None:
    """A process, a leader, and one that is deposed."""
    table, memory = mmap.mmap(-1, DEPOSIT_BYTES), Memory()
    ours, twin = Deposit(table, 9, 7, epoch), DepositTwin(memory, 2, 7, epoch)
    leader = leader_of(memory)
    for name, *args in steps:
        if name == "lower":
            when, state, to = args
            slab = find_deposit(table, 7, when, state)
            lowered = slab is not None and lower_deposit(table, 7, when, state, slab, to)
            known = leader.lower(when, 2, 7, state, to)
            assert (lowered or None) == (known and (-1, known.over))
        else:
            more = (None,) if name == "put" else ()
            assert getattr(ours, name)(*args, *more) == getattr(twin, name)(*args, *more)


def test_what_is_no_deposit() -> None:
    table = mmap.mmap(-1, DEPOSIT_BYTES)
    for index in (-1, DEPOSIT_CELLS):
        with pytest.raises(ValueError, match="no deposit"):
            Deposit(table, index, 7, 1)
    with pytest.raises(ValueError, match="no deposit"):
        Deposit(memoryview(table)[8:], 0, 7, 1)
    for wrong in (memoryview(table)[8:], bytearray(64)):
        with pytest.raises(ValueError, match="no table"):
            find_deposit(wrong, 7, 1, SHARED)
        with pytest.raises(ValueError, match="no table"):
            lower_deposit(wrong, 7, 1, SHARED, 0, INVALID)


def test_what_another_process_may_have_written() -> None:
    """Whatever it is, we have less then: never more, and never for ever in between."""
    table = mmap.mmap(-1, DEPOSIT_BYTES)
    deposit = Deposit(table, 7, 7, 1)
    deposit.put(EXCLUSIVE, 0, None)
    for state in range(16):
        word = int.from_bytes(table[168:176], "little") & ~15 | state
        table[168:176] = word.to_bytes(8, "little")
        assert deposit.left(EXCLUSIVE) in (INVALID, SHARED, EXCLUSIVE)
        assert deposit.left(SHARED) in (INVALID, SHARED)
    for garbage in (b"\xff" * 8, b"\1" + bytes(7)):
        table[168:176] = garbage
        assert not deposit.take_back(EXCLUSIVE)
        assert deposit.left(EXCLUSIVE) == INVALID
        assert deposit.take_back(INVALID)
        assert find_deposit(table, 7, 1, EXCLUSIVE) is None


class Ends:
    """A member, with records, and the leader."""

    def __init__(self, directory: Path) -> None:
        self.epoch = 1
        self.slabs = Slabs(f"{directory}/2.slab-")
        self.member = MembersDeposits(f"{directory}/2.deposits", lambda: self.epoch)
        self.leader = LeadersDeposits(
            lambda vmid: f"{directory}/{vmid}.deposits", lambda vmid: f"{directory}/{vmid}.slab-"
        )

    def put(self, id: int, state: State, data: bytes | None = None) -> Deposit:
        deposit = self.member.open(id)
        assert deposit is not None
        if data is not None:
            self.slabs.reserve(id, data)
            self.slabs.publish(id, 5, data)
        deposit.put(state, 0, self.slabs.record(id))
        return deposit


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path)
    yield ends
    ends.leader.close()
    ends.member.close()
    ends.slabs.close()


def test_the_value_comes_with_it(ends: Ends, tmp_path: Path) -> None:
    ends.put(7, EXCLUSIVE, b"seven")
    ends.put(8, EXCLUSIVE, bytes(3 * LARGE // 2))
    ends.put(9, SHARED, b"nine")
    lower = ends.leader.lower
    assert lower(1, 2, 7, SHARED, INVALID) is None  # it is not what is there
    assert lower(1, 2, 7, EXCLUSIVE, SHARED) == Taken(Value(5, b"seven"), 0)
    assert lower(1, 2, 7, SHARED, INVALID) == NOTHING
    assert lower(1, 2, 7, SHARED, INVALID) is None
    assert lower(1, 2, 8, EXCLUSIVE, INVALID) == Taken(Value(5, bytes(3 * LARGE // 2)), 0)
    assert lower(1, 3, 9, SHARED, INVALID) is None  # there is no such member
    assert lower(1, 2, 9, SHARED, INVALID) == NOTHING


def test_what_cannot_be_read_is_not_taken(ends: Ends, tmp_path: Path) -> None:
    deposit = ends.put(7, EXCLUSIVE, b"seven")
    os.rename(tmp_path / "2.slab-0", tmp_path / "elsewhere")
    assert ends.leader.lower(1, 2, 7, EXCLUSIVE, INVALID) is None
    os.rename(tmp_path / "elsewhere", tmp_path / "2.slab-0")
    assert deposit.take_back(EXCLUSIVE)


@pytest.mark.parametrize("at", [8, 2**20 - 8, 2**40, 2**63 - 1, 2**64 - 1])
def test_a_place_that_is_none_has_no_value(ends: Ends, tmp_path: Path, at: int) -> None:
    ends.put(7, EXCLUSIVE, b"seven")
    with open(tmp_path / "2.deposits", "r+b") as file:
        file.seek(24 * 7 + 8)
        file.write(at.to_bytes(8, "little"))
    assert ends.leader.lower(1, 2, 7, EXCLUSIVE, INVALID) == NOTHING


def test_whatever_is_written_there_the_leader_goes_on(ends: Ends, tmp_path: Path) -> None:
    dice = random.Random(5)
    ends.put(7, EXCLUSIVE, b"seven")
    with open(tmp_path / "2.deposits", "r+b") as file, open(tmp_path / "2.slab-0", "r+b") as slab:
        table, values = mmap.mmap(file.fileno(), 0), mmap.mmap(slab.fileno(), 0)
    whole = table[168:192], values[:256]
    taken = 0
    for _ in range(3000):
        table[168:192], values[:256] = whole
        for memory, at, size in ((values, 0, 48), (table, 168, 24)):
            for _ in range(dice.randrange(3)):
                where = at + dice.randrange(size)
                memory[where] = dice.randrange(256)
        left = ends.leader.lower(1, 2, 7, EXCLUSIVE, INVALID)
        taken += left is not None
        if left is not None and left.value is not None:
            assert left.value.data == b"seven"
    assert 500 < taken < 3000
    table.close()
    values.close()


def test_a_leader_of_another_epoch_takes_nothing(ends: Ends) -> None:
    former = ends.put(7, SHARED)
    assert ends.leader.lower(2, 2, 7, SHARED, INVALID) is None
    assert former.take_back(SHARED)
    ends.epoch = 2
    deposit = ends.put(7, SHARED)
    assert ends.leader.lower(1, 2, 7, SHARED, INVALID) is None
    assert ends.leader.lower(2, 2, 7, SHARED, INVALID) == NOTHING
    assert not deposit.take_back(SHARED)
    former.put(SHARED, 0, None)  # it has let go of the memory
    assert deposit.left(SHARED) == INVALID


def test_there_are_so_many_and_no_more(ends: Ends, tmp_path: Path) -> None:
    near = [7 + DEPOSIT_CELLS * n for n in range(DEPOSIT_PROBES)]
    for id in near:
        ends.put(id, SHARED)
    beyond = 7 + DEPOSIT_CELLS * DEPOSIT_PROBES
    assert ends.member.open(beyond) is None
    for id in near:
        assert ends.leader.lower(1, 2, id, SHARED, INVALID) == NOTHING
    ends.member.forget(near[0])
    ends.member.forget(beyond)
    assert ends.member.open(beyond) is not None
    for vmid in range(3, 3 + MOST_MAPPED):
        (tmp_path / f"{vmid}.deposits").write_bytes(bytes(DEPOSIT_BYTES))
        assert ends.leader.lower(1, vmid, 7, SHARED, INVALID) is None
    assert len(ends.leader._tables) == MOST_MAPPED
    (tmp_path / "99.deposits").write_bytes(bytes(8))
    assert ends.leader.lower(1, 99, 7, SHARED, INVALID) is None


# ---- the cell, and a signal handler that raises


def cell_with(deposit: Any, state: State) -> HandleCell:
    cell = HandleCell()
    cell.state, cell.value, cell.deposit = state, Value(1, b"one"), deposit
    return cell


def test_a_cell_takes_back_before_it_locks() -> None:
    table = mmap.mmap(-1, DEPOSIT_BYTES)
    cell = cell_with(Deposit(table, 7, 7, 1), SHARED)
    assert cell.deposit is not None
    for to, locked in ((None, True), (INVALID, False)):
        cell.deposit.put(SHARED, 0, None)
        if to is not None:
            assert lower_deposit(table, 7, 1, SHARED, NO_SLAB, to) == (-1, 0)
        assert cell.lock_now(1, SHARED) is locked
        assert find_deposit(table, 7, 1, SHARED) is None
        assert cell.unlock_now(1) is locked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("user", 1), ("recall", 1), ("told_user", 1), ("waits", [1]), ("watches", {1: 1})),
        *(("owner_died", True), ("baton", object()), ("state", 1), ("opened", 0)),
    ],
)
def test_what_anybody_needs_is_not_idle(name: str, value: Any) -> None:
    cell = cell_with(None, EXCLUSIVE)
    assert cell.is_idle()
    setattr(cell, name, value)
    assert not cell.is_idle()


class Struck(DepositTwin):
    """Does as it is told, and then there is an exception."""

    broken = 0

    def take_back(self, state: int, /) -> bool:
        done = super().take_back(state)
        return self.strike(done)

    def left(self, state: int, /) -> int:
        return self.strike(super().left(state))

    def strike(self, done: Any) -> Any:
        self.broken -= 1
        if not self.broken:
            raise InterruptedError
        return done


@pytest.mark.parametrize("taken", [None, SHARED, INVALID])
def test_a_signal_handler_that_raises_changes_nothing(taken: State | None) -> None:
    for broken in (1, 2, 3):
        handle, memory = LocalHandle(9), Memory()
        handle.on_upgrade(ConfirmUpgrade(9, EXCLUSIVE, Value(5, b"five"), False))
        handle.deposit = struck = Struck(memory, 2, 9, 1)
        handle.put()
        if taken is not None:
            leader_of(memory).lower(1, 2, 9, EXCLUSIVE, taken)
        struck.broken = broken
        try:
            handle.take_back()
        except InterruptedError:
            handle.take_back()
        assert (handle.state, memory) == (taken or EXCLUSIVE, {})


# ---- processes


def put(handle: SyncHandle[Any], value: Any) -> None:
    with handle.exclusive(timeout=DEADLINE_S) as box:
        box.value = value


def get(handle: SyncHandle[Any]) -> Any:
    with handle.shared(timeout=DEADLINE_S) as value:
        return value


@both_leaders
def test_one_who_holds_his_interpreter_in_native_code_keeps_nobody_waiting(group: Group) -> None:
    with group.sync("h", type=int) as handle, Stuck(group, type=int) as user:
        user("set", 3)
        user.stick()
        assert get(handle) == 3  # of what it had EXCLUSIVE
        assert handle.lock(EXCLUSIVE, timeout=DEADLINE_S) == 3  # and then SHARED
        handle.unlock(4)
        user.free()
        assert user("state") == INVALID
        assert user("get") == 4
        user.stick()
        put(handle, 5)
        handle.lock(SHARED)
        user.free()
        assert user("timed", EXCLUSIVE, 0.0)[0] == "WouldBlock"
        handle.unlock()
        assert user("get") == 5


@both_leaders
@pytest.mark.parametrize("timeout", [0.0, 0.01])
def test_who_has_given_up_a_wait_keeps_nobody_waiting_either(group: Group, timeout: float) -> None:
    with group.sync("h", type=int) as handle, Stuck(group, type=int) as user:
        for n, (kept, wanted) in enumerate(product([INVALID, SHARED], [SHARED, EXCLUSIVE])):
            put(handle, n)
            if kept == SHARED:
                assert user("get") == n
            handle.lock(SHARED if wanted == EXCLUSIVE else EXCLUSIVE, timeout=DEADLINE_S)
            if (kept, wanted) != (SHARED, SHARED):
                assert user("timed", wanted, timeout)[0] in ("WouldBlock", "Timeout")
            handle.unlock()
            assert user("get") == n
            poll(lambda: user("state") == has(group, user.vmid))  # what was given up may be granted
            user.stick()
            put(handle, n + 10)
            user.free()
            assert user("get") == n + 10


@both_leaders
@pytest.mark.parametrize("size", [0, 100, LARGE + 1])
def test_nothing_that_was_committed_is_lost(group: Group, size: int) -> None:
    with group.sync("h", type=bytes) as handle, Stuck(group, type=bytes) as user:
        for n in range(3):
            mine, theirs = b"%d" % n * size, b"%dx" % n * size
            user("set", theirs)
            user("set", theirs + b"!")
            user.stick()
            assert get(handle) == theirs + b"!"
            put(handle, mine)
            user.free()
            assert user("get") == mine


@both_leaders
def test_nobody_waits_for_one_who_is_stopped_or_has_died(group: Group) -> None:
    with group.sync("h", type=int, on_owner_death="raise") as handle:
        for n, signals in enumerate(([signal.SIGCONT], [signal.SIGKILL, signal.SIGCONT])):
            with Stuck(group, type=int, on_owner_death="raise") as user:
                user("set", n)
                user.stop()
                assert get(handle) == n
                put(handle, n + 10)
                for each in signals:
                    user.kill(each)
                if len(signals) == 1:
                    assert user("get") == n + 10
                else:
                    user.wait()
                    poll(lambda: user.vmid not in group.members())
                assert get(handle) == n + 10


@both_leaders
def test_who_uses_it_or_waits_for_a_change_is_asked(group: Group) -> None:
    with group.sync("h", type=int) as handle, Stuck(group, type=int) as user:
        user("set", 3)
        user("lock", SHARED)
        user.stick()
        with pytest.raises(WouldBlock):
            handle.lock(EXCLUSIVE, timeout=0)
        user.free()
        user("unlock")
        put(handle, 4)
        user.send(("wait", 6))
        poll(lambda: user.vmid in state_of(group))
        put(handle, 5)
        put(handle, 6)
        assert user.recv() == 6


def state_of(group: Group) -> set[int]:
    """VMIDs of those who have anything of the only handle."""
    (row,) = group.sync_table()
    return {vmid for vmid, state, _ in row.states if state > INVALID}


def has(group: Group, vmid: int) -> int:
    """What the leader takes this one to have of the only handle."""
    (row,) = group.sync_table()
    return next(state for each, state, _ in row.states if each == vmid)


@both_leaders
def test_a_forked_child_leaves_it_alone(group: Group) -> None:
    def child(line: Line) -> None:
        line.send((handle.state if group.vmid == mine else None, group.vmid))
        with group.sync("h", type=int) as own:
            line.send(get(own))
            line.recv()

    mine = group.vmid
    with group.sync("h", type=int) as handle, Stuck(group, type=int) as user:
        put(handle, 7)
        with Forked(child) as forked:
            assert forked.recv()[0] is None
            assert handle.state in (SHARED, EXCLUSIVE)
            assert forked.recv() == 7
            assert handle.state == SHARED  # taken, down to that
            user("set", 8)
            assert handle.state == INVALID
            assert get(handle) == 8
            forked.send()
            forked.result()


def test_a_new_leader_waits_for_the_word_of_each_and_then_takes_too(
    group: Group, runtime_dir: Path
) -> None:
    with group.sync("h", type=int) as handle, Stuck(group, type=int) as user:
        user("set", 3)
        user.stick()
        (leader,) = leaders(runtime_dir)
        os.kill(leader, signal.SIGKILL)
        with pytest.raises(OSError, match="not free"):
            handle.lock(SHARED, timeout=0.05)  # not known to have it still
        user.free()
        assert get(handle) == 3
        for n in range(2):
            user("set", n)
            user.stick()
            put(handle, n + 10)
            user.free()
            assert user("get") == n + 10
    assert waiting_at(group) == []


def test_what_a_deposed_leader_takes_is_told_to_the_next(group: Group, runtime_dir: Path) -> None:
    """As if it had done so and died before it could say so."""
    with group.sync("h", type=int) as handle, Stuck(group, type=int) as user:
        user("set", 3)
        node = group._node
        former = LeadersDeposits(node.directory.deposits, node.directory.slabs)
        (leader,) = leaders(runtime_dir)
        os.kill(leader, signal.SIGSTOP)
        assert former.lower(group.epoch, user.vmid, handle.id, EXCLUSIVE, INVALID) is not None
        assert user("state") == INVALID
        os.kill(leader, signal.SIGKILL)
        assert get(handle) == 3  # it had told what it had committed
        assert user("get") == 3
        assert former.lower(1, user.vmid, handle.id, SHARED, INVALID) is None
        put(handle, 4)
        assert user("get") == 4
        former.close()
