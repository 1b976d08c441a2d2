"""The journal on its medium: whatever its writer dies in the middle of, whole records come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from libos_ipc.errors import ProtocolError
from libos_ipc.runtime.journal_file import MAGIC, JournalFile, read_journal

RECORDS = [("range", 2, 1, 32, 0.5), ("step", [["vmid", 3, 2]], [], [2, 7], []), ("back", 2, 1)]
COMMITTED = range(len(MAGIC), len(MAGIC) + 8)


def written(path: Path, records: list[tuple[object, ...]]) -> bytes:
    journal = JournalFile(str(path))
    for record in records:
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
    for at in range(len(MAGIC) + 8, len(MAGIC) + 8 + length):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(ProtocolError, match=r"damaged|cut off"):
            list(read_journal(str(path)))


@pytest.mark.parametrize("content", [b"", MAGIC, b"another file" * 9, MAGIC + b"\xff" * 8])
def test_what_is_no_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(ProtocolError):
        list(read_journal(str(path)))
