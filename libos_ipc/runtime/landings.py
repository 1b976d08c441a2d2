"""Where answers for coroutines land: one place for each event loop, which is woken once for many.

A ticket that a coroutine waits for is settled by whatever thread reads the answer, often where no
Python code may run. It lands (`_native.Landing`); its loop is woken by an eventfd, takes all that
have landed and settles their futures.

Two threads would have to wake for a single answer: the one that reads it, and the loop's. So the
loop *looks* once, behind what else is ready in this turn of its, when a request has gone out: it
reads the answers that are there, its own and others', and waits for them for some microseconds if
that has been worth while lately. Loads no asyncio.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from libos_ipc._native import Landing, Ticket

if TYPE_CHECKING:
    import asyncio

__all__ = ["Landings", "LoopLanding"]

#: For how long a loop waits for an answer before it sleeps, and how often at most it does not
#: because that was in vain.
_LINGER_S = 20e-6
_MOST_VAIN = 64


class LoopLanding:
    """The place of one event loop, for the thread that runs it. Keeps no loop alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop, look: Callable[[float], bool]) -> None:
        self._read = look
        self._landing = Landing()
        self._landed: list[Ticket] = []
        self._fresh = False  # a request has gone out since the last look
        self._vain = 0
        self._skipped = 0
        self._finished = False
        loop.add_reader(self._landing.fileno(), self._on_called, ref(loop))

    def ticket(self, loop: asyncio.AbstractEventLoop) -> Ticket:
        """A ticket with a future of the loop."""
        return Ticket(self._landing, loop.create_future())

    def attend(self, loop: asyncio.AbstractEventLoop) -> None:
        """A request goes out: look behind what else is ready now, before the loop sleeps."""
        if not self._landing.attending:
            self._landing.attending = True
            loop.call_soon(self._look, loop)

    def expect(self) -> None:
        """It has gone: the look may wait a little."""
        self._fresh = True

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        landing = self._landing
        try:
            self._read(self._patience())
            landing.take(self._landed)
            landing.attending = False
            if self._landed:
                self._vain = self._skipped = 0
                self._settle()
                self.attend(loop)  # there may be more
        except BaseException:
            self._call_again()
            raise

    def _patience(self) -> float:
        """For how long to look now. Counts as in vain until something is found."""
        if not self._fresh or self._landing.landed:
            return 0
        self._fresh = False
        if self._skipped < self._vain:
            self._skipped += 1
            return 0
        self._skipped = 0
        self._vain = min(2 * self._vain + 1, _MOST_VAIN)
        return _LINGER_S

    def _on_called(self, loop: ref[asyncio.AbstractEventLoop]) -> None:
        try:
            self._landing.take(self._landed)
            self._settle()
        except BaseException:
            self._call_again()
            raise
        running = loop()
        if self._finished and running is not None:
            running.remove_reader(self._landing.fileno())
            self._landing.close()

    def _call_again(self) -> None:
        """A signal handler has raised, wherever that was: the rest is for when the loop goes on."""
        self._landing.attending = False
        self._landing.call()

    def _settle(self) -> None:
        """Let the coroutines go on."""
        landed, settled = self._landed, 0
        try:
            for ticket in landed:
                _settle(ticket)
                settled += 1
        finally:
            del landed[:settled]

    def finish(self) -> None:
        """Any thread: nothing more will land; have the loop settle what has, and forget us."""
        self._finished = True
        self._landing.call()

    def close(self) -> None:
        """The loop is closed."""
        self._landing.close()

    def abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a forked child, where the loop may go on.

        What there is to read of the descriptor is for the parent, whose it is too. Closed here
        first, it stays in an epoll that both share.
        """
        number = self._landing.fileno()
        self._landing.close()
        self._landing.take(self._landed)
        if number >= 0 and loop.is_running():
            loop.remove_reader(number)
            loop.call_soon_threadsafe(self._settle)


def _settle(ticket: Ticket) -> None:
    future = ticket.future
    if future.done():
        return
    if ticket.succeeded():
        future.set_result(ticket.result())
        return
    try:
        ticket.result()
    except Exception as error:
        future.set_exception(error)
        future.exception()  # who has stopped waiting does not want to read of it


class Landings:
    """Those of a session."""

    def __init__(self, look: Callable[[float], bool]) -> None:
        self._look = look
        #: whether any loop ever had one
        self.used = False
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLanding] = (
            WeakKeyDictionary()
        )

    def at(self, loop: asyncio.AbstractEventLoop) -> LoopLanding:
        """The place of the loop that runs in this thread."""
        return self._by_loop.get(loop) or self._add(loop)

    def _add(self, loop: asyncio.AbstractEventLoop) -> LoopLanding:
        self._drop_closed()
        self.used = True
        landing = self._by_loop[loop] = LoopLanding(loop, self._look)
        return landing

    def _all(self) -> list[tuple[asyncio.AbstractEventLoop, LoopLanding]]:
        """Threads add theirs meanwhile."""
        loops = [loop for known in self._by_loop.keyrefs() if (loop := known()) is not None]
        return [(loop, found) for loop in loops if (found := self._by_loop.get(loop)) is not None]

    def _drop_closed(self) -> None:
        for loop, landing in self._all():
            if loop.is_closed():
                landing.close()
                self._by_loop.pop(loop, None)

    def close(self) -> None:
        """Nothing will land any more. Any thread."""
        self._drop_closed()
        for _, landing in self._all():
            landing.finish()

    def abandon(self) -> None:
        """In a forked child."""
        for loop, landing in self._all():
            landing.abandon(loop)
        self._by_loop.clear()
