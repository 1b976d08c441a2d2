"""The victim, and the bystanders that work beside it and check what they get.

A bystander that gets something wrong, or nothing in time, ends with an exception: the siege
sees it by its exit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libos_ipc import Group, IpcError, PeerDied

from .board import Board, Place

__all__ = ["ECHO", "NOISE", "bystander", "echo", "hush", "hushed", "newcomer", "victim"]

ECHO, NOISE = 70, 71
#: What a bystander's deed may take, also on a loaded machine.
PATIENCE_S = 30.0


class _Counting(logging.Handler):
    """Counts what the library notes, and shows what is no misdeed but a mistake of its own."""

    def __init__(self, board: Board, noted: bool) -> None:
        super().__init__()
        self._board = board
        self._noted = noted

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self._board[Place.FAILED] += 1
            print(logging.Formatter().format(record), file=sys.stderr)
        elif self._noted:
            self._board[Place.NOTED] += 1
            self._board[Place.REFUSED] += "refused" in record.getMessage().partition(":")[0]


def hush(board: Board, *, noted: bool = False) -> None:
    """What the library notes of misdeeds is counted, not shown."""
    logger = logging.getLogger("libos_ipc")
    logger.handlers[:] = [_Counting(board, noted)]
    logger.propagate = False


@contextlib.contextmanager
def hushed(board: Board) -> Iterator[None]:
    """The same for a while."""
    logger = logging.getLogger("libos_ipc")
    before = list(logger.handlers), logger.propagate
    hush(board)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before


def echo(message: Any) -> bytes:
    """The payload, backwards."""
    return bytes(message.payload[::-1])


def victim(group: Group, board: Board) -> None:
    """Answers, and talks to whoever attacks: what is broken there is also to be met on the way
    out."""
    hush(board, noted=True)
    group.on(ECHO)(echo)
    group.on(NOISE)(lambda message: None)
    payload = os.urandom(100_000)
    turn = 0
    while not board[Place.STOP]:
        turn += 1
        attacker = board[Place.ATTACKER + turn % 2]
        try:
            if attacker and turn % 4 < 2:
                group.ping(attacker, timeout=0.05)
            elif attacker:
                group.send(attacker, NOISE, payload[: turn * 37 % len(payload)], timeout=0.05)
            else:
                time.sleep(0.002)
        except IpcError:
            time.sleep(0.001)  # it is gone, or does not read


def bystander(group: Group, board: Board, place: int, peers: list[int], directory: Path) -> None:
    """Asks the others, has values and locks with them, and counts on the board."""
    hush(board)
    group.on(ECHO)(echo)
    file = directory / "file"
    count = 0
    with group.sync("counter", type=int) as counter:
        while not board[Place.STOP]:
            begun = time.monotonic_ns()
            for peer in peers:
                payload = os.urandom(1 + count * 331 % 40_000)
                try:
                    answer = group.request(peer, ECHO, payload, timeout=PATIENCE_S)
                except PeerDied:
                    if board[Place.STOP]:
                        return  # another bystander has seen that first, and gone
                    raise
                assert answer == payload[::-1], (peer, len(payload), len(answer))
            with counter.exclusive(PATIENCE_S) as box:
                box.value += 1
            with group.file_lock(file, timeout=PATIENCE_S):
                pass
            id = group.ids.new()
            assert group.ids.owner(id) == group.vmid
            group.ids.release(id)
            took = time.monotonic_ns() - begun
            board[Place.WORST_NS + place] = max(board[Place.WORST_NS + place], took)
            count += 1
            board[Place.DONE + place] = count
            time.sleep(0.005)


def newcomer(group: Group, board: Board, peers: list[int]) -> None:
    """Makes the acquaintance of the besieged, is answered, and goes."""
    hush(board)
    for peer in peers:
        payload = os.urandom(100)
        assert group.request(peer, ECHO, payload, timeout=PATIENCE_S) == payload[::-1]
    assert group.vmid in {member.vmid for member in group.members()}
