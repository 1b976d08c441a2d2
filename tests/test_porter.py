"""The porter's rounds: what is handled, what ends them, and what does not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from libos_ipc._native import PORTER
from libos_ipc.core.vocabulary import Message
from libos_ipc.runtime.lanes import Lanes
from libos_ipc.runtime.porter import Porter


class Endless:
    """An exchange that always has something."""

    waiting = False
    halted = False

    def __init__(self, lanes: Lanes) -> None:
        self.bell = lanes.bell
        self.reads = 0
        self.gives: Any = ([], [], [])

    def look(self, seconds: float) -> bool:
        return False

    def read(self) -> Any:
        self.reads += 1
        self.bell.again(5)
        self.bell.take()
        if isinstance(self.gives, Exception):
            raise self.gives
        return tuple(list(each) for each in self.gives)


class Rig:
    """A porter around such an exchange, and what it has handed out."""

    def __init__(self) -> None:
        self.lanes = Lanes(0)
        self.exchange = Endless(self.lanes)
        self.delivered: list[Message] = []
        self.short: list[int] = []
        self.refused: Message | None = None
        self.porter = Porter(
            self.lanes,
            1000,
            lambda rounds, seat: self.exchange,  # type: ignore[arg-type,return-value]
            self._deliver,
            lambda peer, arrival: None,
            lambda line, why: None,
            self.short.append,
            lambda peers: None,
            lambda: None,
        )

    def _deliver(self, message: Message) -> None:
        if message is self.refused:
            raise MemoryError
        self.delivered.append(message)

    def close(self) -> None:
        self.lanes.close()


@pytest.fixture
def rig() -> Any:
    rig = Rig()
    yield rig
    rig.close()


def test_a_round_ends_though_there_is_always_more(rig: Rig) -> None:
    rig.exchange.gives = ([Message(2, 70, 0, b"")], [], [])
    rig.porter._round()
    assert 1 < rig.exchange.reads < 1000
    assert len(rig.delivered) == rig.exchange.reads
    # Whoever rings now wakes somebody again, and the porter has been called.
    assert rig.lanes.bell.sleep(PORTER, 0) is True


def test_who_wants_it_to_stop_does_not_wait_for_that(rig: Rig) -> None:
    rig.porter._stopping = True
    rig.porter._round()
    assert rig.exchange.reads == 1


def test_a_round_goes_on_behind_an_error(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.exchange.gives = ValueError("how odd")
    rig.porter._round()
    assert rig.exchange.reads > 1
    assert "how odd" in caplog.text
    assert not rig.porter._rounds.locked()


def test_a_round_ends_where_there_is_no_memory(rig: Rig) -> None:
    rig.exchange.gives = MemoryError()
    rig.porter._round()
    assert rig.exchange.reads == 1
    assert rig.short == [-1]
    assert not rig.porter._rounds.locked()


def test_what_there_is_no_memory_to_hand_out_is_handed_out_later(rig: Rig) -> None:
    given = [Message(2, 70, 0, b"%d" % number) for number in range(4)]
    rig.exchange.gives = (given, [], [])
    rig.refused = given[2]
    rig.porter._round()
    assert rig.delivered == given[:2]
    assert rig.short == [-1]
    rig.refused = None
    rig.exchange.gives = ([], [], [])
    rig.porter._round()
    assert rig.delivered == given


def test_the_thread_can_be_stopped_under_steady_traffic(rig: Rig) -> None:
    for _ in range(3):
        rig.porter.start()
        stopped = threading.Thread(target=rig.porter.stop)
        stopped.start()
        stopped.join(20)
        assert not stopped.is_alive()


def test_the_main_thread_does_not_sit(rig: Rig) -> None:
    rig.porter._begin_sitting()
    rig.porter.sit(lambda: False, None, urgent=True)
    assert not rig.porter._seat.locked()
