"""What a process has committed, as the leader finds it when the process has died at any moment."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twins.record_twin import RecordTwin

from libos_ipc._native import Record
from libos_ipc.core.sync_words import Reference, Remains, Value
from libos_ipc.runtime import slabs
from libos_ipc.runtime.slabs import LARGE, SLAB_BYTES, Slabs, read_large, read_remains, write_large

NOTHING = Remains(None, False)
COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


class Process:
    """One that writes, as it goes on and as it is found when it has died."""

    def __init__(self, folder: Path) -> None:
        self.prefix = f"{folder}/2.slab-"
        self.slabs = Slabs(self.prefix)
        self.versions: dict[int, int] = {}

    def commit(self, id: int, data: Any) -> Value:
        self.versions[id] = self.versions.get(id, 0) + 1
        self.slabs.reserve(id, data)
        self.slabs.publish(id, self.versions[id], data)
        return Value(self.versions[id], data)

    def found(self, id: int) -> Remains:
        return read_remains(self.prefix)(id)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.slabs.close()


def test_what_was_committed_is_found(process: Process) -> None:
    assert process.found(1) == NOTHING
    for size in (0, 1, 54, 55, 56, 1000, LARGE, 3):
        value = process.commit(1, b"x" * size)
        assert process.found(1) == Remains(value, False)
    other = process.commit(2, Reference(b"value-2-2-1", 100_000))
    process.slabs.set_use(1, True)
    assert (process.found(1), process.found(2)) == (Remains(value, True), Remains(other, False))
    process.slabs.forget(1)
    assert process.found(1) == NOTHING
    assert process.found(2) == Remains(other, False)


def test_records_are_used_again(process: Process) -> None:
    for id in range(1, 20_000):
        process.commit(id, b"x" * 100)
        process.slabs.forget(id)
    assert os.listdir(os.path.dirname(process.prefix)) == ["2.slab-0"]


def test_slabs_grow_and_all_are_read(process: Process) -> None:
    values = {id: process.commit(id, bytes([id % 256]) * 3000) for id in range(1, 2000)}
    sizes = [os.path.getsize(f"{process.prefix}{number}") for number in range(5)]
    assert sizes == [SLAB_BYTES << number for number in range(5)]
    find = read_remains(process.prefix)
    assert all(find(id) == Remains(value, False) for id, value in values.items())


def test_a_large_value_takes_little_room(process: Process) -> None:
    for id in range(1, 1000):
        process.commit(id, Reference(b"value-4294967295-4294967295-9999999", 1 << 30))
    assert os.listdir(os.path.dirname(process.prefix)) == ["2.slab-0"]


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.sampled_from(["commit", "forget", "use", "free"]), st.binary()
        ),
        max_size=40,
    ),
    st.integers(1, 300),
)
@settings(max_examples=100, **COMMON)  # type: ignore[arg-type]
def test_against_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, bytes]], times: int
) -> None:
    process = Process(tmp_path_factory.mktemp("s"))
    model: dict[int, Remains] = {}
    for id, step, data in steps:
        if step == "commit":
            used = model.get(id, NOTHING).in_use
            model[id] = Remains(process.commit(id, data * times), used)
        elif step == "forget":
            process.slabs.forget(id)
            model.pop(id, None)
            process.versions.pop(id, None)
        elif id in model:
            process.slabs.set_use(id, step == "use")
            model[id] = model[id]._replace(in_use=step == "use")
        assert all(process.found(each) == model.get(each, NOTHING) for each in range(1, 5))
    process.slabs.close()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 2**63 - 1), st.binary(max_size=64), st.integers(0, 2**32 - 1)),
            st.booleans(),
        )
    )
)
def test_a_record_is_written_as_its_twin_writes_it(steps: list[Any]) -> None:
    ours, theirs = bytearray(512), bytearray(512)
    record = Record(ours, 64, 64)
    twin = RecordTwin(theirs, memoryview(theirs).cast("Q"), 64, 64)
    for step in steps:
        for each in (record, twin):
            each.set_use(step) if isinstance(step, bool) else each.publish(*step)
        assert ours == theirs
    record.release()


def test_a_record_is_within_its_slab() -> None:
    slab = bytearray(256)
    for at, capacity in ((-8, 64), (4, 64), (96, 64), (0, 109), (0, 8), (2**62, 64), (0, 2**62)):
        with pytest.raises(ValueError, match="no record"):
            Record(slab, at, capacity)
    with pytest.raises(BufferError):
        Record(bytes(256), 0, 64)
    record = Record(slab, 88, 64)
    with pytest.raises(ValueError, match="too small"):
        record.publish(1, bytes(65), 0)
    record.release()
    slab.clear()  # nobody has it any more
    record.set_use(True)
    with pytest.raises(ValueError, match="released"):
        record.publish(1, b"", 0)


# ---- a death at any moment


class Dead(BaseException):
    """In place of a SIGKILL."""


def die_at(process: Process, moment: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Have the process die at its `moment`-th write into a slab: nothing is written from then on.
    The answer says whether it came to that."""
    left = [moment]

    def strike() -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Dead

    class Words:
        def __init__(self, words: Any) -> None:
            self.words = words

        def __getitem__(self, at: int) -> int:
            return self.words[at]  # type: ignore[no-any-return]

        def __setitem__(self, at: int, value: int) -> None:
            strike()
            self.words[at] = value

        def release(self) -> None:
            self.words.release()

    class Bytes:
        """Not written in one piece: a part of it is there at the moment."""

        def __init__(self, slab: Any, words: Words) -> None:
            self.slab, self.words = slab, words

        def __getitem__(self, at: Any) -> Any:
            return self.slab[at]

        def __setitem__(self, at: Any, value: Any) -> None:
            if isinstance(at, slice):
                half = len(value) // 2
                self.slab[at.start : at.start + half] = value[:half]
                strike()
                self.slab[at] = value
            else:
                strike()
                self.slab[at] = value

        def close(self) -> None:
            self.slab.close()

    class Packer:
        def __init__(self, packer: struct.Struct) -> None:
            self.packer = packer
            self.size = packer.size

        def pack_into(self, slab: Any, at: int, *values: int) -> None:
            slab[at : at + self.size] = self.packer.pack(*values)

        def unpack_from(self, slab: Any, at: int = 0) -> Any:
            return self.packer.unpack(slab[at : at + self.size])

        def pack(self, *values: int) -> bytes:
            return self.packer.pack(*values)

    for name in ("_HEAD", "_REST", "_SIZE", "_PREFIX"):
        monkeypatch.setattr(slabs, name, Packer(getattr(slabs, name)))
    monkeypatch.setattr(
        slabs, "Record", lambda slab, at, capacity, _: RecordTwin(slab, slab.words, at, capacity)
    )
    for slab in process.slabs._slabs:
        slab.words = Words(slab.words)  # type: ignore[assignment]
        slab.bytes = Bytes(slab.bytes, slab.words)  # type: ignore[assignment,arg-type]
    for record in process.slabs._records.values():
        record.native.release()
        record.native = slabs.Record(record.slab.bytes, record.at, record.capacity, 0)
    return lambda: left[0] <= 0


STEPS: dict[str, Callable[[Process], object]] = {
    "commit": lambda process: process.commit(1, b"new!" * 5),
    "more": lambda process: process.commit(1, b"new!" * 500),
    "large": lambda process: process.commit(1, Reference(b"value-1-2-3", 1 << 20)),
    "first": lambda process: process.commit(9, b"nine"),
    "use": lambda process: process.slabs.set_use(1, True),
    "forget": lambda process: process.slabs.forget(3),
    "again": lambda process: (process.slabs.forget(3), process.commit(7, b"seven")),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_moment_of_a_step(step: str, tmp_path: Path) -> None:
    """What was committed before is found; what was about to be, whole or not at all."""
    for moment in range(1, 40):
        folder = tmp_path / str(moment)
        folder.mkdir()
        process = Process(folder)
        process.commit(1, b"old")
        old = {id: process.commit(id, bytes([id]) * 20) for id in (1, 2, 3, 4)}
        with pytest.MonkeyPatch.context() as patch:
            died = die_at(process, moment, patch)
            try:
                STEPS[step](process)
            except Dead:
                pass
        for id in (2, 4):
            assert process.found(id) == Remains(old[id], False)
        found = {id: process.found(id).value for id in (1, 3, 7, 9)}
        assert found[3] in (old[3], None)
        if step not in ("forget", "again"):
            assert found[3] == old[3]
        assert found[7] in (None, Value(1, b"seven"))
        assert found[9] in (None, Value(1, b"nine"))
        news = (b"new!" * 5, b"new!" * 500, Reference(b"value-1-2-3", 1 << 20))
        assert found[1] in (old[1], *(Value(3, data) for data in news))
        if not died():
            if step in ("commit", "more", "large"):
                assert found[1] != old[1]
            break
        process.slabs.close()
    else:
        raise AssertionError("it dies for ever")
    assert moment > 1
    process.slabs.close()


# ---- what others have written


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, set[tuple[int, Value]]]:
    """The slab of a process, up to its last record, and all that it has ever committed."""
    process = Process(tmp_path_factory.mktemp("whole"))
    committed = set()
    for id in (1, 2, 3):
        for data in (b"a", b"bb" * 20, bytes(200), Reference(b"value-1-2-3", 70_000), b"c" * 9):
            committed.add((id, process.commit(id, data)))
    end = process.slabs._end
    process.slabs.close()
    with open(f"{process.prefix}0", "rb") as file:
        return file.read()[: end + 64], committed


@given(st.data())
@settings(max_examples=250, **COMMON)  # type: ignore[arg-type]
def test_a_slab_that_is_damaged(
    tmp_path: Path, whole: tuple[bytes, set[tuple[int, Value]]], data: st.DataObject
) -> None:
    """Nothing is raised, and there is no value that nobody has committed."""
    slab, committed = bytearray(whole[0]), whole[1]
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(slab) - 1))
        slab[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
    del slab[data.draw(st.just(len(slab)) | st.integers(0, len(slab))) :]
    (tmp_path / "2.slab-0").write_bytes(slab)
    find = read_remains(f"{tmp_path}/2.slab-")
    bodies = {value.data for _, value in committed}
    for id in range(5):
        value = find(id).value
        assert value is None or value.data in bodies


@given(st.binary(max_size=600), st.sampled_from([64, 128, 1 << 17, 1 << 18, 2**32 - 1]))
@settings(max_examples=100, **COMMON)  # type: ignore[arg-type]
def test_a_slab_of_anything(tmp_path: Path, junk: bytes, capacity: int) -> None:
    for slab in (junk, struct.pack("=I", capacity) + junk):
        (tmp_path / "2.slab-0").write_bytes(slab)
        find = read_remains(f"{tmp_path}/2.slab-")
        for id in range(20):
            assert isinstance(find(id), Remains)


def test_what_is_no_slab(tmp_path: Path) -> None:
    """The leader does not wait for it, and follows no link."""
    prefix = f"{tmp_path}/2.slab-"
    other = Process(tmp_path)
    other.commit(1, b"x")
    os.rename(f"{prefix}0", tmp_path / "real")
    os.symlink(tmp_path / "real", f"{prefix}0")
    assert other.found(1) == NOTHING
    os.unlink(f"{prefix}0")
    os.mkfifo(f"{prefix}0")
    assert other.found(1) == NOTHING
    os.unlink(f"{prefix}0")
    os.mkdir(f"{prefix}0")
    assert other.found(1) == NOTHING
    other.slabs.close()


# ---- large values


def test_large_values(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    where = write_large(str(tmp_path), "value-1-2-3", data)
    assert where == Reference(b"value-1-2-3", len(data))
    assert read_large(str(tmp_path), where) == data
    for wrong in (b"group", b"../value-1-2-3", b"value-1-2-3\n", b"\xff", b""):
        with pytest.raises(ValueError, match="names no value"):
            read_large(str(tmp_path), Reference(wrong, 1))
        slabs.remove_large(str(tmp_path), wrong)
    with pytest.raises(ValueError, match="announced"):
        read_large(str(tmp_path), where._replace(size=5))
    os.mkfifo(tmp_path / "value-9-9-9")
    with pytest.raises((ValueError, OSError)):
        read_large(str(tmp_path), Reference(b"value-9-9-9", 5))
    writer = Slabs(f"{tmp_path}/2.slab-")
    writer.reserve(1, where)
    for _ in range(2):  # as a step that a signal handler breaks off is taken again
        writer.publish(1, 1, where)
        assert read_large(str(tmp_path), where) == data
    writer.close()
    slabs.remove_large(str(tmp_path), where.where)
    slabs.remove_large(str(tmp_path), where.where)
    with pytest.raises(FileNotFoundError):
        read_large(str(tmp_path), where)


def test_memory_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*what: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    process = Process(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(slabs.os, "posix_fallocate", full)
        with pytest.raises(OSError, match="full"):
            process.slabs.reserve(1, b"x")
        patch.setattr(slabs.os, "write", full)
        with pytest.raises(OSError, match="full"):
            write_large(str(tmp_path), "value-1-2-3", b"x")
    assert os.listdir(tmp_path) == []
    value = process.commit(1, b"x")
    assert process.found(1) == Remains(value, False)
    process.slabs.close()
