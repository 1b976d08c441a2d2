"""Reading the lanes: by a thread of its own, the *porter*, or by who has taken the seat.

Both sleep on the bell; whoever rings it wakes the seated thread, and the porter only when nobody
sits or the seated one is busy. Rounds exclude each other. During a round nobody is woken: it
ends when a look finds that nothing was rung.

What most messages need is done by the exchange, in C. It hands out the program's messages, and
says where it has found others, which go through the machine; it also waits for answers, and for
messages to handle, in the place of a seated thread (`Exchange.call`, `Exchange.serve`).

Bits of the bell may be lost to a process of the group that does not keep to the rules; so a
sleep that ends by itself is followed by a look at all lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from libos_ipc._native import PORTER, SEAT, Exchange, Lock, Malformed
from libos_ipc.core.vocabulary import Message
from libos_ipc.runtime.landings import Landings
from libos_ipc.runtime.lanes import LANE_BYTES, Arrival, Lanes
from libos_ipc.runtime.seat import Seat
from libos_ipc.runtime.shortage import hand_out
from libos_ipc.runtime.threads import QuickThread

__all__ = ["Porter"]

log = logging.getLogger("libos_ipc")

Rung = tuple[list[Message], list[int], list[int]]

#: Messages of one peer that are handled before another's turn, and turns in a round.
_ROUND = 256
_TURNS = 16
#: Turns in which all is read that a lane holds, however small the messages are.
_DRAIN = 1 + LANE_BYTES // (33 * _ROUND)


class Porter(Seat):
    """Reads `lanes`: `deliver(message)` for each message of the program that the exchange takes
    in, `on_message(peer, arrival)` for each other, `on_malformed(line, why)` once for each lane
    that cannot be read, `on_short(line)` for one whose messages there is no memory for (-1
    for any), which stay where they are, `on_news(peers)` for those that the exchange has noted, and
    `on_read()` after each round that brought something."""

    def __init__(
        self,
        lanes: Lanes,
        max_message: int,
        make_exchange: Callable[[Lock, Lock], Exchange],
        deliver: Callable[[Message], None],
        on_message: Callable[[int, Arrival], None],
        on_malformed: Callable[[int, str], None],
        on_short: Callable[[int], None],
        on_news: Callable[[list[int]], None],
        on_read: Callable[[], None],
    ) -> None:
        super().__init__()
        self._lanes = lanes
        self._bell = lanes.bell
        self._max_message = max_message
        self._on_message = on_message
        self._on_malformed = on_malformed
        self._on_short = on_short
        self._deliver = deliver
        self._on_news = on_news
        self._on_read = on_read
        self._rounds = Lock()
        self.exchange = make_exchange(self._rounds, self._seat)
        #: for event loops, whose threads read answers too
        self.landings = Landings(self.exchange.look)
        self._thread: QuickThread | None = None
        #: what was read and is not handled, if there was no memory for that
        self._left: Rung | None = None

    def start(self) -> None:
        """Read in a thread of our own from now on."""
        self._begin_sitting()
        self.exchange.halted = False
        self._lanes.clerk.start()
        thread = QuickThread(lambda own: self._run())
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """End the thread, and return when it is gone and nobody sits. Not from a round."""
        thread, self._thread = self._thread, None
        self._stopping = self.exchange.halted = True
        self._bell.nudge(SEAT)
        self._bell.nudge(PORTER)
        self._lanes.clerk.stop()
        self._await_vacancy()
        if thread is not None:
            thread.join()

    def drain(self, peer: int) -> None:
        """Handle what `peer` has written until now. Not from a round."""
        with self._rounds:
            line = self._lanes.line_of(peer)
            for _ in range(_DRAIN):
                if line is None or not self._read(line):
                    break

    def _run(self) -> None:
        self._look_everywhere()
        while not self._stopping:
            self._sleep(PORTER, None)

    def _turn(self, timeout: float | None) -> None:
        self._sleep(SEAT, None if timeout is None else time.monotonic() + timeout)

    def _call(self) -> None:
        self._bell.nudge(SEAT)

    def _taken(self) -> None:
        self._bell.sit()

    def _vacated(self) -> None:
        if self._bell.stand():
            self._bell.nudge(PORTER)

    def nudge(self, *, urgent: bool) -> None:
        """Have the seated thread look, also one that waits in the exchange for an answer."""
        if self.exchange.waiting:
            self._bell.nudge(SEAT)
        else:
            super().nudge(urgent=urgent)

    @property
    def _seat_wanted(self) -> bool:
        return self.exchange.wanted

    @_seat_wanted.setter
    def _seat_wanted(self, wanted: bool) -> None:
        self.exchange.wanted = wanted

    def finish_round(self) -> None:
        """Handle what a round of the exchange's has left. In that round."""
        try:
            self._left = self._left or ([], *self.exchange.left())
            self._handle(*self._left)
            self._left = None
        except MemoryError:
            self._on_short(-1)
        except Exception:
            log.exception("what came by a lane")
        self._on_read()

    def _sleep(self, who: int, deadline: float | None) -> None:
        rung = self._bell.sleep(who, deadline)
        if rung or (deadline is not None and time.monotonic() >= deadline):
            self._round()
        else:
            self._look_everywhere()

    def _look_everywhere(self) -> None:
        for line in self._lanes.lines():
            self._bell.again(line)
        self._round()

    def _round(self) -> None:
        """Handle what was rung; not for ever: others wait for their turn, or want us to stop."""
        found = False
        with self._rounds:
            for _ in range(_TURNS):
                try:
                    rung = self._left
                    if rung is None:
                        rung = self._left = self.exchange.read()
                        if rung is None:
                            break
                        rung[0].reverse()
                    self._handle(*rung)
                    self._left = None
                except MemoryError:
                    self._on_short(-1)
                    break
                except Exception:
                    self._left = None
                    log.exception("what came by a lane")
                found = True
                if self._stopping:
                    self._bell.rest()
                    break
            else:
                self._bell.rest()
                self._bell.nudge(PORTER)
        if found:
            self._on_read()

    def _handle(self, messages: list[Message], lines: list[int], news: list[int]) -> None:
        hand_out(messages, self._deliver)
        while lines:
            if self._read(lines[-1]):
                self._bell.again(lines[-1])
            lines.pop()
        if news:
            self._on_news(news)

    def _read(self, line: int) -> bool:
        """Handle what is there. True if there may be more."""
        receive, most = self._lanes.receive, self._max_message
        arrival: Arrival | None = None
        try:
            for _ in range(_ROUND):
                arrival = receive(line, most)
                if arrival is None:
                    return False
                self._on_message(self._lanes.peer_at(line), arrival)
                arrival = None
        except Malformed as error:
            self._on_malformed(line, str(error))
            return False
        except MemoryError:
            if arrival is not None:
                self._lanes.put_back(line, arrival)
            self._on_short(line)
            return False
        except Exception:
            log.exception("a message that came by a lane")
        return True
