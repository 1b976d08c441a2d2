"""An event loop for coroutine handlers that were registered outside of any loop."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from typing import Any

from libos_ipc.runtime.threads import join_native

__all__ = ["Tasks"]


class Tasks:
    """One event loop in a thread of its own, made with the first coroutine.

    Around a fork the thread is ended and made again; its tasks stand still meanwhile and go on. In
    the child they do not; there the loop can be closed without the parent's noticing, since it has
    nothing in the kernel that both would share, as an epoll instance is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(
        self, coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop | None
    ) -> None:
        """Run `coroutine` on `loop`, or, if that is None, on ours."""
        asyncio.run_coroutine_threadsafe(coroutine, loop or self._running())

    def resume(self) -> None:
        """Go on after a pause."""
        if self._loop is not None:
            self._running()

    def pause(self) -> None:
        """End the thread. Its tasks go on with the next one."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None or thread is threading.current_thread():
            return
        loop.call_soon_threadsafe(loop.stop)
        join_native(thread)
        self._thread = None

    def close(self) -> None:
        """Cancel what is still running, and end."""
        self.pause()
        loop, self._loop = self._loop, None
        if loop is None or self._thread is not None:
            return
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    def abandon(self) -> None:
        """In a forked child: close our copy, unless it is the loop that forked."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_running():
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.SelectorEventLoop(selectors.PollSelector())
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="libos_ipc asyncio", daemon=True
                )
                self._thread.start()
            return self._loop
