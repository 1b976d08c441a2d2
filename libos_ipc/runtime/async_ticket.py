"""A ticket that a coroutine waits for: a future, settled on its own loop. Loads asyncio."""

from __future__ import annotations

import asyncio

from libos_ipc.core.vocabulary import Body
from libos_ipc.errors import IpcError

__all__ = ["AsyncTicket"]


class AsyncTicket:
    """A request that a coroutine waits for."""

    __slots__ = ("_loop", "_settled", "future")

    def __init__(self) -> None:
        self._settled = False
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Body] = self._loop.create_future()

    def resolve(self, payload: Body) -> None:
        self._later(self._set_result, payload)

    def fail(self, error: IpcError) -> None:
        self._later(self._set_error, error)

    def settled(self) -> bool:
        """Whether there is a result, which the event loop may yet have to hear of."""
        return self._settled

    def _later(self, settle: object, value: object) -> None:
        self._settled = True
        try:
            self._loop.call_soon_threadsafe(settle, value)  # type: ignore[arg-type]
        except RuntimeError:
            pass  # the loop was closed: nobody waits any more

    def _set_result(self, payload: Body) -> None:
        if not self.future.done():
            self.future.set_result(payload)

    def _set_error(self, error: IpcError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
