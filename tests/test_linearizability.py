"""Histories of real processes that share values, killed and stopped at any time, are linearizable.

`python tests/test_linearizability.py 50000` checks so many operations, under both kinds of leader.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from campaign.linearizability import NEVER, Operation, explain, is_linearizable
from conftest import both_leaders
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import DEADLINE_S, Forked, Line, poll

from libos_ipc import Group, IpcError
from libos_ipc.sync import SyncHandle

FIRST = 0


# ---- the checker


def op(kind: str, called: float, returned: float, got: Any = None, put: Any = None) -> Operation:
    return Operation(kind, got, put, called, returned)


def read(called: float, returned: float, got: int) -> Operation:
    return op("read", called, returned, got)


def write(called: float, returned: float, put: int) -> Operation:
    return op("write", called, returned, None, put)


def change(called: float, returned: float, got: int | None, put: int) -> Operation:
    return op("change", called, returned, got, put)


GOOD = {
    "nothing": [],
    "one after the other": [write(0, 1, 1), read(2, 3, 1), change(4, 5, 1, 2), read(6, 7, 2)],
    "a read beside a write sees it": [write(0, 9, 1), read(1, 2, 1), read(3, 4, 1)],
    "or does not": [write(0, 9, 1), read(1, 2, 0), read(3, 4, 1)],
    "two writes in either order": [write(0, 5, 1), write(0, 5, 2), read(6, 7, 1), read(8, 9, 1)],
    "changes in a row, all at once": [change(0, 9, 2, 3), change(0, 9, 0, 1), change(0, 9, 1, 2)],
    "killed, and took effect": [change(0, NEVER, 0, 1), read(5, 6, 1)],
    "killed, and took effect late": [write(0, NEVER, 1), read(5, 6, 0), read(7, 8, 1)],
    "killed, and did not": [change(0, NEVER, None, 1), read(5, 6, 0), read(7, 8, 0)],
    "killed before it read": [write(0, 1, 7), change(2, NEVER, None, 8), read(3, 4, 8)],
}
BAD = {
    "what nobody wrote": [read(0, 1, 5)],
    "a stale read": [write(0, 1, 1), read(2, 3, 0)],
    "back in time": [write(0, 9, 1), read(1, 2, 1), read(3, 4, 0)],
    "a lost change": [change(0, 5, 0, 1), change(0, 5, 0, 2)],
    "two readers do not agree": [
        *(write(0, 9, 1), write(0, 9, 2)),
        *(read(10, 11, 1), read(12, 13, 2)),
    ],
    "killed, and seen again": [write(0, NEVER, 1), write(2, 3, 2), *(read(4, 5, 1), read(6, 7, 2))],
    "seen before it was called": [read(0, 1, 1), write(2, NEVER, 1)],
    "a killed change of what was not there": [change(0, NEVER, 7, 8), read(1, 2, 8)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories_are_accepted(name: str) -> None:
    assert explain(GOOD[name], FIRST) is None


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_rejected(name: str) -> None:
    assert "none of these comes next" in (explain(BAD[name], FIRST) or "")


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """What a register that takes one operation at a time would have given: each begins before the
    moment of its effect, and ends after that or never."""
    history = []
    value = FIRST
    for moment in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from(["read", "write", "change"]))
        before, after = draw(st.floats(0, 4)), draw(st.floats(0, 4) | st.just(NEVER))
        put = None if kind == "read" else moment + 1
        got = None if kind == "write" else value
        history.append(Operation(kind, got, put, moment - before, moment + after))
        value = value if put is None else put
    return draw(st.permutations(history))


@settings(deadline=None, max_examples=80)
@given(histories())
def test_what_a_register_gave_is_accepted(history: list[Operation]) -> None:
    assert explain(history, FIRST) is None


@settings(deadline=None, max_examples=80)
@given(histories(), st.data())
def test_it_agrees_with_trying_everything(history: list[Operation], data: st.DataObject) -> None:
    """On short histories, of which one answer may be false."""
    history = history[:5]
    if history:
        number = data.draw(st.integers(0, len(history) - 1))
        false = data.draw(st.integers(0, 5))
        history[number] = history[number]._replace(got=false)
    assert is_linearizable(history, FIRST) == any(
        _explains(order) for order in _orders(history, [])
    )


def _orders(left: list[Operation], taken: list[Operation]) -> Iterator[list[Operation]]:
    """All orders that time allows, without or with those that never returned."""
    if all(one.returned == NEVER for one in left):
        yield taken
    for one in left:
        if all(one.called <= other.returned for other in left):
            yield from _orders([other for other in left if other is not one], [*taken, one])


def _explains(order: list[Operation]) -> bool:
    value: Any = FIRST
    for one in order:
        if one.kind != "write" and one.got != value:
            return False
        value = value if one.kind == "read" else one.put
    return True


def test_a_long_history_is_checked_in_time() -> None:
    history = []
    for number in range(5_000):
        history.append(change(number, number + 5.5, number, number + 1))
        if number % 1000 == 0:
            history.append(change(number, NEVER, number - 1, -number))
            history.append(change(number, NEVER, -number, number))
    assert is_linearizable(history, FIRST)
    history[4_000] = history[4_000]._replace(got=3)
    assert not is_linearizable(history, FIRST)


# ---- histories of real processes


class Log:
    """What one thread calls and gets, in a file that outlives its process. Each line is written at
    once; a call without a return was not finished."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def note(self, *words: Any) -> None:
        os.write(self._fd, json.dumps([*words, time.monotonic_ns()]).encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def read_log(path: Path) -> dict[str, list[Operation]]:
    """The operations in a log, by the name of the handle."""
    found: dict[str, list[Operation]] = {}
    pending: Operation | None = None
    name = ""
    for line in path.read_bytes().split(b"\n")[:-1]:
        word, *rest = json.loads(line)
        if word == "call":
            name, kind, put, called = rest
            pending = Operation(kind, None, put, called, NEVER, path.name)
        elif word == "got" and pending is not None:
            pending = pending._replace(got=rest[0])
        elif word == "return" and pending is not None:
            found.setdefault(name, []).append(pending._replace(returned=rest[0]))
            pending = None
        elif word == "nothing":
            pending = None
    if pending is not None:
        found.setdefault(name, []).append(pending)
    return found


def value_of(number: int) -> bytes:
    """Every seventh one is large."""
    return b"%d." % number + b"x" * (70_000 if number % 7 == 6 else number % 5)


def number_of(value: bytes) -> int:
    """The reverse; fails for a value that is not whole."""
    number = int(value[: value.index(b".")]) if value else FIRST
    assert value == (value_of(number) if value else b"")
    return number


class Client:
    """A thread that uses handles at random."""

    def __init__(self, log: Log, first: int, seed: int) -> None:
        self._log = log
        self._next = first
        self._random = random.Random(seed)
        self._last: dict[str, int] = {}

    def run(self, handles: list[SyncHandle[bytes]], times: int) -> None:
        ways = [self.read, self.write, self.change, self.wait, self.give_up]
        for _ in range(times):
            handle = self._random.choice(handles)
            way = self._random.choices(ways, (4, 2, 4, 1, 1))[0]
            try:
                way(handle)
            except IpcError:  # a time-out, or the news of a death: nothing was done
                self._log.note("nothing")
        self._log.close()

    def timeout(self) -> float | None:
        return self._random.choice([None, None, None, 0.0, 0.001])

    def call(self, handle: SyncHandle[bytes], kind: str) -> int:
        self._next += 1
        self._log.note("call", handle.name, kind, None if kind == "read" else self._next)
        return self._next

    def got(self, handle: SyncHandle[bytes], value: bytes) -> None:
        number = self._last[str(handle.name)] = number_of(value)
        self._log.note("got", number)

    def read(self, handle: SyncHandle[bytes]) -> None:
        self.call(handle, "read")
        with handle.shared(self.timeout()) as value:
            self.got(handle, value)
        self._log.note("return")

    def write(self, handle: SyncHandle[bytes]) -> None:
        number = self.call(handle, "write")
        with handle.exclusive(self.timeout()) as box:
            box.value = value_of(number)
        self._log.note("return")

    def change(self, handle: SyncHandle[bytes]) -> None:
        number = self.call(handle, "change")
        with handle.exclusive(self.timeout()) as box:
            self.got(handle, box.value)
            box.value = value_of(number)
        self._log.note("return")

    def wait(self, handle: SyncHandle[bytes]) -> None:
        self.call(handle, "read")
        last = self._last.get(str(handle.name), FIRST)
        value = handle.wait(lambda value: number_of(value) != last, timeout=0.002)
        self.got(handle, value)
        self._log.note("return")

    def give_up(self, handle: SyncHandle[bytes]) -> None:
        """A change that is rolled back."""
        self.call(handle, "read")
        try:
            with handle.exclusive(self.timeout()) as box:
                self.got(handle, box.value)
                box.value = b"never"
                raise KeyError
        except KeyError:
            self._log.note("return")


class Load:
    """Processes of two threads each that share some handles, while some are killed or stopped."""

    def __init__(
        self, group: Group, folder: Path, seed: int, *, handles: int = 2, on_death: Any = "last"
    ) -> None:
        self.group = group
        self.folder = folder
        self.random = random.Random(seed)
        self.names = [f"h{number}" for number in range(handles)]
        self.on_death = on_death
        self.started = 0
        self.running: list[Forked] = []

    def start(self, times: int) -> None:
        self.started += 1
        seeds = [self.random.random() for _ in range(2)]
        first = self.started * 2_000_000

        def body(line: Line) -> None:
            group = self.group
            handles = [group.sync(name, on_owner_death=self.on_death) for name in self.names]
            clients = [
                Client(Log(self.folder / f"{first + n}"), first + n * 1_000_000, int(seed * 1e9))
                for n, seed in enumerate(seeds)
            ]
            failed: list[BaseException] = []

            def run(client: Client) -> None:
                try:
                    client.run(handles, times)
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=run, args=(clients[0],))
            thread.start()
            run(clients[1])
            thread.join()
            if failed:
                raise failed[0]
            group.close()

        self.running.append(Forked(body))

    def run(self, processes: int, times: int, kills: int, stops: int) -> None:
        """Until all that are not killed have done their part."""
        keepers = [self.group.sync(name, on_owner_death=self.on_death) for name in self.names]
        for _ in range(processes):
            self.start(times)
        for what in self.random.sample(["kill"] * kills + ["stop"] * stops, kills + stops):
            self.progress(self.random.randrange(20, 60))
            victim = self.random.choice(self.running)
            if what == "kill":
                self.kill(victim)
                self.start(times)
            elif not victim._pipe.poll():
                victim.kill(signal.SIGSTOP)
                self.progress(20, at_most=0.05)
                victim.kill(signal.SIGCONT)
        for process in self.running:
            process.result(DEADLINE_S * 10)
            process.__exit__(None, None, None)
        for keeper in keepers:
            keeper.close()

    def kill(self, victim: Forked) -> None:
        victim.kill()
        victim.wait()
        victim.__exit__(None, None, None)
        self.running.remove(victim)

    def progress(self, operations: int, at_most: float = DEADLINE_S) -> None:
        """Wait until about so many more have been done, or all have."""
        until = self.size() + operations * 100
        deadline = time.monotonic() + at_most
        while self.size() < until and time.monotonic() < deadline:
            if any(process._pipe.poll() for process in self.running):
                return
            time.sleep(0.0005)

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def histories(self) -> dict[str, list[Operation]]:
        found: dict[str, list[Operation]] = {name: [] for name in self.names}
        for path in self.folder.iterdir():
            for name, operations in read_log(path).items():
                found[name] += operations
        return found


@both_leaders
@pytest.mark.parametrize(
    ("seed", "handles", "on_death", "kills", "stops"),
    [
        pytest.param(1, 1, "last", 0, 0, id="undisturbed"),
        pytest.param(2, 2, "last", 4, 3, id="last"),
        pytest.param(3, 3, "raise", 4, 3, id="raise"),
    ],
)
def test_real_histories_are_linearizable(
    group: Group, tmp_path: Path, seed: int, handles: int, on_death: Any, kills: int, stops: int
) -> None:
    load = Load(group, tmp_path, seed, handles=handles, on_death=on_death)
    load.run(3, 60, kills, stops)
    for operations in load.histories().values():
        assert len(operations) > 30
        complaint = explain(operations, FIRST)
        assert complaint is None, complaint

    def is_clean() -> bool:
        """A death is noticed by and by."""
        names = os.listdir(group._node.directory.path)
        return group.sync_table() == [] and not any(n.startswith("value-") for n in names)

    poll(is_clean, what="no handle and no value left")


# ---- a larger run


def _check(leader: Literal["process", "embedded"], operations: int, seed: int) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Group.create(leader=leader) as group:
        load = Load(group, Path(folder), seed, handles=3, on_death=("last", "raise")[seed % 2])
        load.run(4, operations // 8, operations // 200, operations // 200)
        done = time.monotonic()
        histories = load.histories()
    finished = sum(one.returned != NEVER for each in histories.values() for one in each)
    pending = sum(one.returned == NEVER for each in histories.values() for one in each)
    words = [explain(operations, FIRST) for operations in histories.values()]
    seconds = f"{done - began:.1f} s, checked in {time.monotonic() - done:.1f} s"
    print(f"{leader}, seed {seed}: {finished} operations, {pending} cut off, {seconds}: {words}")


def _main(operations: int, rounds: int) -> None:
    for seed in range(rounds):
        kinds: Any = ("process", "embedded")
        for leader in kinds:
            _check(leader, operations, seed)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
