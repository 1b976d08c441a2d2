"""The journal on its medium: whatever its writer dies in the middle of, whole records come back."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libos_ipc.errors import ProtocolError
from libos_ipc.runtime import journal_file
from libos_ipc.runtime.journal_file import (
    MAGIC,
    Head,
    JournalFile,
    JournalSealed,
    Record,
    read_bytes,
    read_head,
    read_journal,
    retire,
    seal,
)

RECORDS = [("range", 2, 1, 32, 0.5), ("step", [["vmid", 3, 2]], [], [2, 7], []), ("back", 2, 1)]
OS_PID, VMID = 4321, 7
HEAD = 40
COMMITTED = range(len(MAGIC), len(MAGIC) + 8)


def written(path: Path, records: list[tuple[object, ...]]) -> bytes:
    journal = JournalFile(str(path))
    journal.append(records[0])
    journal.begin(OS_PID, VMID)
    for record in records[1:]:
        journal.append(record)
    journal.close()
    return path.read_bytes()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    written(tmp_path / "journal", RECORDS)
    assert list(read_journal(str(tmp_path / "journal"))) == RECORDS


def test_a_journal_grows(tmp_path: Path) -> None:
    many = [("sync", "value", number, b"x" * 3000) for number in range(100)]
    written(tmp_path / "journal", many)
    assert list(read_journal(str(tmp_path / "journal"))) == many


def test_a_record_cut_off_in_the_middle_never_was(tmp_path: Path) -> None:
    """The length is written last: before that, any part of the record may be there."""
    before = written(tmp_path / "before", RECORDS[:-1])
    after = written(tmp_path / "after", RECORDS)
    changed = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    path = tmp_path / "torn"
    for cut in range(len(changed) + 1):
        torn = bytearray(before)
        for at in changed[:cut]:
            if at not in COMMITTED:
                torn[at] = after[at]
        path.write_bytes(torn)
        assert list(read_journal(str(path))) == RECORDS[:-1]


def test_damage_within_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = written(path, RECORDS)
    length = int.from_bytes(whole[len(MAGIC) : len(MAGIC) + 8], "little")
    for at in range(HEAD, HEAD + length):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(ProtocolError, match=r"damaged|cut off"):
            list(read_journal(str(path)))


@pytest.mark.parametrize("content", [b"", MAGIC, b"another file" * 9, MAGIC + b"\x7f" * 24])
def test_what_is_no_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(ProtocolError):
        list(read_journal(str(path)))


def test_nothing_is_committed_behind_a_seal(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = JournalFile(path)
    journal.append(RECORDS[0])
    journal.begin(OS_PID, VMID)
    length = seal(path)
    assert journal.sealed
    with pytest.raises(JournalSealed):
        journal.append(RECORDS[1])
    assert seal(path) == length
    assert list(read_journal(path)) == RECORDS[:1]
    assert read_head(path) == Head(length, True, OS_PID, VMID)
    journal.close()


def test_a_journal_that_was_sealed_first_is_never_begun(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    assert seal(path) == 0
    journal = JournalFile(path)
    journal.append(RECORDS[0])
    with pytest.raises(JournalSealed):
        journal.begin(OS_PID, VMID)
    head = read_head(path)
    assert head is not None
    assert (head.committed, head.sealed) == (0, True)
    journal.close()


def test_what_an_heir_wrote_that_died_before_it_began_counts_for_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    dead = JournalFile(path)
    for record in RECORDS:
        dead.append(record)
    dead.close()
    assert read_head(path) == Head(0, False, 0, 0)
    next_heir = JournalFile(path)
    next_heir.append(RECORDS[1])
    next_heir.begin(OS_PID, VMID)
    assert list(read_journal(path)) == RECORDS[1:2]
    next_heir.close()


def test_a_successor_goes_on_where_the_journal_was_sealed(tmp_path: Path) -> None:
    first, second = str(tmp_path / "journal-1"), str(tmp_path / "journal-2")
    written(tmp_path / "journal-1", RECORDS[:2])
    seal(first)
    journal = JournalFile(second)
    journal.copy(read_bytes(first))
    journal.begin(OS_PID + 1, VMID + 1)
    journal.append(RECORDS[2])
    assert list(read_journal(second)) == RECORDS
    retire(first)
    head = read_head(first)
    assert head is not None
    assert (head.sealed, head.os_pid, head.vmid) == (True, OS_PID, VMID)
    assert (tmp_path / "journal-1").stat().st_size < 100
    journal.close()


def test_there_is_no_head_before_there_is_a_file(tmp_path: Path) -> None:
    assert read_head(str(tmp_path / "journal")) is None
    (tmp_path / "journal").write_bytes(MAGIC[:3])
    assert read_head(str(tmp_path / "journal")) is None
    retire(str(tmp_path / "journal"))


# ---- shortened

MANY = [("sync", "value", number, b"x" * 50) for number in range(900)]
SHORT: Record = ("snapshot", b"y" * 5000)


class Died(Exception):
    """The leader dies here."""


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[], object]) -> None:
    """Look after everything that is done to a journal in memory."""

    class Watched(mmap.mmap):
        def __setitem__(self, at: Any, value: Any) -> None:
            super().__setitem__(at, value)
            look()

        def resize(self, size: int) -> None:
            super().resize(size)
            look()

    exchange = journal_file.exchange_word

    def exchanged(*given: Any) -> int:
        found = exchange(*given)
        look()
        return found

    monkeypatch.setattr(journal_file.mmap, "mmap", Watched)
    monkeypatch.setattr(journal_file, "exchange_word", exchanged)


def long_journal(path: str) -> JournalFile:
    journal = JournalFile(path)
    journal.begin(OS_PID, VMID)
    for record in MANY:
        journal.append(record)
    return journal


def test_a_journal_that_is_shortened_is_whole_after_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step later each time its writer dies, and a successor seals what is there."""
    found: list[bool] = []
    steps = 0
    with monkeypatch.context() as patched:

        def look() -> None:
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise Died

        watch(patched, look)
        died = True
        while died:
            path = str(tmp_path / f"journal-{len(found)}")
            journal = long_journal(path)
            steps, died = len(found) + 1, False
            try:
                journal.shorten(lambda: SHORT)
            except Died:
                died = True
            steps = 0
            seal(path)
            records = list(read_journal(path))
            assert records in (MANY, [SHORT])
            found.append(records == [SHORT])
            journal.close()
    assert found == sorted(found), "once it is shortened, it stays so"
    assert not found[0]
    assert found.count(True) > 3


def test_a_shortened_journal_goes_on_and_is_shortened_again(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = long_journal(path)
    long = (tmp_path / "journal").stat().st_size
    assert journal.is_long
    journal.shorten(lambda: SHORT)
    assert not journal.is_long
    assert (tmp_path / "journal").stat().st_size < long
    for _ in range(3):
        for record in MANY:
            journal.append(record)
        assert list(read_journal(path)) == [SHORT, *MANY]
        assert journal.is_long
        journal.shorten(lambda: SHORT)
        assert list(read_journal(path)) == [SHORT]
    assert read_head(path) == Head(len(read_bytes(path)), False, OS_PID, VMID)
    journal.close()


def test_nobody_takes_it_for_what_it_was_when_it_was_as_long(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = long_journal(str(path))
    journal.shorten(lambda: SHORT)
    before = path.read_bytes()[:16]
    journal.append(RECORDS[0])
    journal.shorten(lambda: SHORT)
    assert path.read_bytes()[:16] != before
    journal.close()


def test_what_is_no_shorter_is_not_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = long_journal(path)
    journal.shorten(lambda: ("snapshot", b"y" * 100_000))
    assert list(read_journal(path)) == MANY
    assert not journal.is_long
    journal.append(RECORDS[0])
    assert list(read_journal(path)) == [*MANY, RECORDS[0]]
    journal.close()


def test_a_sealed_journal_is_not_shortened(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = long_journal(path)
    seal(path)
    with pytest.raises(JournalSealed):
        journal.shorten(lambda: SHORT)
    assert list(read_journal(path)) == MANY
    journal.close()
