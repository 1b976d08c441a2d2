"""Signals of the group in this process: from the message to the handler in the main thread.

Python runs signal handlers in the main thread, and so do we: a signal that came as a message is
put down, with its sender, and the main thread is interrupted by the same real signal. The
*trampoline*, which is what the program's handler looks like to Python, then takes what was put
down. A real signal that nobody put down came by way of the kernel, and is handled just as well.

    worker:  message -> pending -> pthread_kill(main thread)
    main:    … interrupted … -> trampoline -> handler(sig, info) for each that is pending

A handler may call the group. So it must not run while the main thread itself is inside a step of
the machine: then the worker sends the real signal again when that step is done.

A real signal that comes between Python's last look for signals and a system call that waits does
not interrupt that call, and Python runs no handler until it ends. So the worker looks whether the
main thread has taken notice, and as long as it has not sends another signal, at which nothing
happens but that Python looks. The real one again might be one too many, and look like the kernel's.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeAlias

from libos_ipc._native import Lock
from libos_ipc.core.signals import Pending
from libos_ipc.core.vocabulary import SignalInfo
from libos_ipc.runtime import trampoline

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["FROM_KERNEL", "LOOK_SIGNAL", "Handler", "Signalling"]

Handler: TypeAlias = Callable[[int, SignalInfo], object]

#: What has Python look for signals, where the program has no handler of its own for it.
LOOK_SIGNAL: int = int(signal.SIGRTMAX) - 3
#: Where a signal is from that no member sent as a message.
FROM_KERNEL = SignalInfo(0, -1, "kernel")
#: Seconds within which a lock is free, unless the thread that asks has it; and between two looks.
_STEP_S, _LOOK_S = 0.01, 0.0005
#: Seconds until Python is made to look for a real signal of which no notice is taken, doubled each
#: time; and when that is given up, since the main thread has the number blocked, or never looks.
_AGAIN_S, _GIVE_UP_S = 0.1, 10.0


class Signalling:
    """The handlers of one process in one group, and the signals that wait for them. `session` gives
    the process's own: in a forked child it is another one than its parent's.

    In a process that is in several groups a real signal is offered to all of them, the one joined
    last first: `all_of_them` gives their objects in that order.
    """

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session
        self.handlers: dict[int, Handler] = {}
        #: numbers that `sigwait` has asked for: they wait instead of acting
        self.held: set[int] = set()
        #: whether there was ever any of either
        self.used = False
        self.pending = Pending()
        self.all_of_them: Callable[[], Collection[Signalling]] = lambda: (self,)
        self._awaited: list[frozenset[int]] = []
        #: numbers by which the main thread was interrupted, and has taken no notice yet
        self._poked: set[int] = set()
        #: those of which that will be looked at
        self._doubted: set[int] = set()
        #: numbers whose handler runs: as in the kernel, it is not interrupted by its own number
        self._running: set[int] = set()

    def reborn(self) -> None:
        """In a forked child: handlers stay, what was pending was the parent's."""
        self.pending = Pending()
        self._awaited.clear()
        self._poked.clear()
        self._doubted.clear()
        self._running.clear()

    def caught(self) -> int:
        """One bit for each number that is to come as a message."""
        mask = 0
        for sig in {*self.handlers, *self.held}:
            mask |= 1 << sig
        return mask

    # ---- handlers; in the main thread

    def install(self, sig: int, handler: Handler) -> Any:
        """Let `handler` handle a signal; what handled it before."""
        former = self.handlers.get(sig)
        if signal.getsignal(LOOK_SIGNAL) == signal.SIG_DFL:
            signal.signal(LOOK_SIGNAL, _look)
        self.used = True
        before = trampoline.put(sig, self._on_real)
        self.handlers[sig] = handler
        self.held.discard(sig)
        return former or before

    def hold(self, sigs: frozenset[int]) -> None:
        """From now on these wait instead of acting."""
        self.used = True
        self.held |= sigs

    def uninstall(self, sig: int, action: Any) -> Any:
        """Back to what Python knows: SIG_DFL or SIG_IGN. What waits is treated like that, too."""
        self._poked.discard(sig)
        before = signal.signal(sig, action)
        former = self.handlers.pop(sig, None)
        self.held.discard(sig)
        while self.pending.take((sig,)) is not None:
            if action == signal.SIG_DFL:
                os.kill(os.getpid(), sig)
        return former or before

    def drain(self) -> None:
        """Handle what waits, before the group is left. In the main thread; in others nothing."""
        if threading.current_thread() is threading.main_thread():
            for sig in list(self.handlers):
                self._drain(sig)

    def release(self) -> None:
        """The group is closed, and no more of `all_of_them`: its numbers go to another group that
        handles them, or back to the program. What members have sent and nobody has handled is
        dropped, as the kernel drops it of who ends: what the program does by itself with that
        number, and be it to die, is not what was meant. From another thread than the main one
        nothing happens until the next signal comes."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._poked.clear()
        self.pending = Pending()
        for sig in list(self.handlers):
            del self.handlers[sig]
            self._hand_over(sig)

    def _hand_over(self, sig: int) -> None:
        for one in self.all_of_them():
            if sig in one.handlers and not one._session().closed:
                trampoline.put(sig, one._on_real)
                return
        trampoline.give_back(sig)

    # ---- what comes

    def came(self, sig: int, info: SignalInfo) -> None:
        """A member has sent this. Any thread, under the session's lock or not."""
        if sig not in self.handlers and sig not in self.held:
            os.kill(os.getpid(), sig)  # the sender did not know yet
            return
        self.pending.arrive(sig, info)
        if any(sig in sigs for sigs in self._awaited):
            self._session().tell_progress()
        elif sig in self.handlers:
            self._poke(sig)

    def _poke(self, sig: int) -> None:
        if sig in self._poked:
            return
        self._poked.add(sig)
        signal.pthread_kill(_main(), sig)
        if sig not in self._doubted and not self._session().closed:
            self._doubt(sig, _AGAIN_S)

    def _doubt(self, sig: int, pause_s: float) -> None:
        self._doubted.add(sig)
        self._session().clock.later(pause_s, lambda: self._poke_again(sig, pause_s))

    def _poke_again(self, sig: int, pause_s: float) -> None:
        self._doubted.discard(sig)  # first: who pokes from now on sees to that himself
        if sig in self._poked and signal.getsignal(LOOK_SIGNAL) is _look:
            signal.pthread_kill(_main(), LOOK_SIGNAL)
            if pause_s < _GIVE_UP_S:
                self._doubt(sig, 2 * pause_s)

    def _on_real(self, sig: int) -> None:
        """What the trampoline calls."""
        if self._session().closed:  # by another thread, or in a forked child that could not join
            ours = self._expects(sig)
            self.release()
            if not ours:
                signal.raise_signal(sig)
            return
        everyone = self.all_of_them()
        if not _is_free(self._session().lock):
            self._put_off(sig, any(one._expects(sig) for one in everyone))
            return
        accounted = [one._account(sig) for one in everyone]  # all of them
        if any(accounted):
            return
        for one in everyone:
            if sig in one.handlers:
                one.pending.arrive(sig, FROM_KERNEL)
                one._drain(sig)
                return

    def _account(self, sig: int) -> bool:
        """Handle what waits of this number. Whether that is what the real signal was for."""
        ours = self._expects(sig)
        self._poked.discard(sig)
        self._drain(sig)
        return ours

    def _expects(self, sig: int) -> bool:
        return sig in self._poked or self.pending.has((sig,))

    def _drain(self, sig: int) -> None:
        handler = self.handlers.get(sig)
        if handler is None or sig in self._running:
            return
        self._running.add(sig)
        try:
            while not any(sig in sigs for sigs in self._awaited):
                entry = self.pending.take((sig,))
                if entry is None:
                    break
                handler(*entry)
        finally:
            self._running.discard(sig)
            if self.pending.has((sig,)) and sig in self.handlers:
                self._poked.add(sig)
                self._put_off(sig, True)  # the handler has raised: the others, after that

    def _put_off(self, sig: int, ours: bool) -> None:
        """The main thread is in the middle of a step: come again when it is not. Not if what was
        expected has been handled by then: it came with one of the kernel's."""

        session = self._session()

        def again() -> None:
            with session.lock:
                pass
            main = _main()
            if not ours or any(one._expects(sig) for one in self.all_of_them()):
                signal.pthread_kill(main, sig)

        session.clock.later(0, again)

    # ---- waiting

    def wait(self, sigs: frozenset[int], timeout: float | None) -> Any:
        """The next signal of these: (number, info), or None when the time is over."""
        session = self._session()
        self._awaited.append(sigs)
        try:
            with session.lock:
                session.wait_for(lambda: self.pending.has(sigs), timeout)
                return self.pending.take(sigs)
        finally:
            self._awaited.remove(sigs)
            for sig in sigs & self.handlers.keys():
                if self.pending.has((sig,)):
                    self._poke(sig)


def _is_free(lock: Lock) -> bool:
    """Whether nobody holds this lock, now or within a step. It is not taken for that: the handler
    of another signal may raise before it would be given back."""
    deadline = time.monotonic() + _STEP_S
    while lock.locked():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _look(sig: int, frame: object) -> None:
    """Python has looked."""


def _main() -> int:
    main = threading.main_thread().ident
    assert main is not None
    return main
