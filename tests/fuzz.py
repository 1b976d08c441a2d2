"""What is not well formed, for everything of the extension that reads bytes from outside.

    python tests/fuzz.py [--seconds N] [--seed S] [--only TARGET] [FILE …]

Each round takes a file of `tests/corpus/TARGET/`, changes it in a few places, and feeds it to that
target. Nothing may come of it but a result or Malformed; a crash is for the sanitizers to see, so
run it on a build with these. The input that is being tried lies in `fuzz-last-TARGET` of the
temporary directory (said at the end, and at a failure): with a FILE, that one is tried, once. A
result that leads somewhere new should be kept: add it to the corpus.

Corpus files are bytes as they come: frames behind their sizes (u16 each), the memory of a lane.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from shared_memory import memory

from libos_ipc import _native, wire
from libos_ipc._native import (
    SEAT,
    Doorbell,
    Exchange,
    Lane,
    Ledger,
    Lock,
    Malformed,
    Outstanding,
    Shared,
    Ticket,
)
from libos_ipc.core.vocabulary import Message, Outgoing
from libos_ipc.errors import ProtocolError

CORPUS = Path(__file__).parent / "corpus"
MOST = 1 << 16
LANE = 3 * 4096
#: A lane with windows of three sizes.
WIDE = 4096 + (1 << 15)
#: Bytes behind a lane's memory that nobody may touch.
GUARD = 1 << 20
MOST_GUARDS = 1000
#: Numbers at which something changes.
EDGES = [0, 1, 16, 17, 33, 4095, 4096, 8191, 2**16, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


# ---- targets


def frames(data: bytes) -> None:
    """A message as ZeroMQ brings it."""
    parts = list(islice(split(data), 5))
    if parts:
        number, acked, code, seq, payload = _native.unpack_frames(parts[:4], MOST)
        assert max(number, acked, seq) < 2**64
        assert code < 256
        assert len(payload) <= MOST
    whole = b"".join(parts)
    code, seq, payload = _native.unpack_message(whole, MOST)
    assert _native.pack_message(code, seq, payload) == whole


def payloads(data: bytes) -> None:
    """The fields of each message of the library's own, and of each answer."""
    for code in wire.ROWS:
        for decode in (wire.decode, wire.decode_answer):
            try:
                decode(code, data)
            except ProtocolError:
                continue


@cache
def _guarded(size: int) -> tuple[Shared, list[object]]:
    """Memory behind which lies what nobody may touch, and what has to be kept for that."""
    kept: list[object] = []
    while len(kept) < MOST_GUARDS:
        kept.append(mmap.mmap(-1, GUARD, prot=0))  # the next mapping lies before it, or in a gap
        shared = memory(size)
        end = ctypes.addressof(ctypes.c_char.from_buffer(shared)) + size
        with open("/proc/self/maps") as maps:
            if any(line.startswith(f"{end:x}-") and " ---" in line for line in maps):
                return shared, kept
        kept.append(shared)
    raise AssertionError("the system puts no mapping before another")


def guarded(size: int, data: bytes) -> Shared:
    """Memory that begins with this, and zeros behind it. Sanitizers know nothing of mappings: but
    who reads on behind this one ends. One at a time."""
    shared, _ = _guarded(size)
    memoryview(shared)[:] = data[:size].ljust(size, b"\0")
    return shared


def lane(data: bytes, size: int = LANE) -> None:
    """A lane whose memory another process has filled, and goes on to change."""
    half = len(data) // 2
    shared = guarded(size, data[:half])
    view = memoryview(shared)
    ours = Lane(shared, True)
    for again in (data[half:], b""):
        try:
            for _ in range(20):
                ours.send(1, 1, 70, 1, data[:600])
                found = ours.receive(MOST)
                if found is None:
                    break
                assert len(found[4]) <= MOST
        except Malformed:
            assert ours.receive(MOST) is None
        view[: min(len(again), size)] = again[:size]
        ours.flush()
        ours.settle(bool(again))


def window(data: bytes) -> None:
    """The same, where windows change."""
    lane(data, WIDE)


def exchange(data: bytes) -> None:
    """The same memory below an exchange, with a request under way."""
    shared, bell_memory = guarded(LANE, data), memory(4096)
    memoryview(bell_memory)[: min(len(data), 256)] = data[-256:]
    bell = Doorbell(bell_memory)
    ours, ledger, requests = Lane(shared, True), Ledger(), Outstanding()
    ours.reach(bell_memory, 5)
    locks = Lock(), Lock(), Lock()
    made = Exchange(bell, requests, *locks, Message, Outgoing, requests.discard, MOST, MOST, 8)
    made.connect(3, 5, ours, ledger)
    made.write(3)
    made.read_from(3)
    made.ask(3, 70, b"asked", 0)
    made.call(3, 70, b"asked", Ticket(), 0)
    looks = iter([0, 0, 0])

    def queued() -> int:
        bell.nudge(SEAT)  # or it would sleep
        return next(looks, 1)

    host = Nobody()
    made.serve(host, host, {}, queued, False)
    for _ in range(20):
        bell.again(5)
        found = made.read()
        if found is None:
            break
        for line in found[1]:
            if line != 5:
                continue
            try:
                ours.receive(MOST)
            except Malformed:
                return


class Nobody:
    """A host that does nothing of what it is asked."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (frames, payloads, lane, window, exchange)
}


# ---- inputs


def split(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


@cache
def beginnings(data: bytes) -> list[int]:
    """Where bytes stand behind nothing: the counts and heads of a lane, which are few in it."""
    return [at for at, byte in enumerate(data) if byte and not data[at - 1 : at].strip(b"\0")]


def changed(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """The same, but for a few places, half of them about where something begins."""
    result = bytearray(data)
    marks = beginnings(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(result) + 1)
        if marks and chance.random() < 0.5:
            at = min(max(0, chance.choice(marks) + chance.randrange(-8, 9)), len(result))
        kind = chance.randrange(7)
        if kind == 0 and result:
            result[at % len(result)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            width = chance.choice((1, 2, 4, 8))
            edge = chance.choice(EDGES) + chance.choice((-1, 0, 0, 1))
            result[at : at + width] = (edge % (1 << 8 * width)).to_bytes(width, "little")
        elif kind == 2:
            del result[at:]
        elif kind == 3:
            del result[at : at + chance.randrange(1, 20)]
        elif kind == 4:
            result[at:at] = chance.randbytes(chance.randrange(1, 20))
        elif kind == 5:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            result[at : at + 64] = other[start : start + 64]
        else:
            at = at // 64 * 64  # where the counts of a lane are
            result[at : at + 8] = chance.choice(EDGES).to_bytes(8, "little")
    return bytes(result)


def attempt(target: str, data: bytes) -> None:
    try:
        TARGETS[target](data)
    except Malformed:
        pass


def fuzz(target: str, seconds: float, seed: int) -> int:
    """Try changed inputs for so long; how many."""
    chance = random.Random(f"{seed} {target}")
    corpus = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    with open(last_of(target), "w+b") as file:
        file.truncate(1 << 20)
        last = mmap.mmap(file.fileno(), 1 << 20)
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        for _ in range(50):
            data = changed(chance.choice(corpus), corpus, chance)[: 1 << 19]
            last[: 4 + len(data)] = len(data).to_bytes(4, "little") + data
            attempt(target, data)
            count += 1
    last.close()
    return count


def last_of(target: str) -> Path:
    return Path(tempfile.gettempdir()) / f"fuzz-last-{target}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="in all")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    parser.add_argument("--only", choices=TARGETS, action="append")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    options = parser.parse_args()
    targets = options.only or list(TARGETS)
    for target in targets:
        for path in options.files or sorted((CORPUS / target).iterdir()):
            data = path.read_bytes()
            size = int.from_bytes(data[:4], "little")
            attempt(target, data[4 : 4 + size] if path == last_of(target) else data)
        if options.files:
            continue
        print(f"{target}: seed {options.seed}, inputs in {last_of(target)}", flush=True)
        count = fuzz(target, options.seconds / len(targets), options.seed)
        print(f"{target}: {count} inputs, nothing found", flush=True)
        last_of(target).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
