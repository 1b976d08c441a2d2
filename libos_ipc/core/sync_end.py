"""A member's end of all sync handles: the client's machine between messages, callers and memory.

What the machine wants done becomes effects that the runtime knows: its words messages to the
server, a grant or a failure the end of a ticket, a commit a publication. Where the server is in
this very process, words come and go without a link; they are put off until the list that they
are part of is through, so that none overtakes another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from libos_ipc.core.codes import Code
from libos_ipc.core.sync_client import SyncClient
from libos_ipc.core.sync_handle import Effects as ClientEffects
from libos_ipc.core.sync_payload import pack, unpack
from libos_ipc.core.sync_words import (
    Changed,
    Closed,
    Commit,
    ConfirmClose,
    ConfirmDowngrade,
    ConfirmUpgrade,
    Failed,
    Granted,
    Hold,
    InUse,
    LocalWait,
    RefuseWait,
    RequestClose,
    RequestDowngrade,
    RequestUpgrade,
    Resume,
    ServerWord,
    WithdrawWait,
)
from libos_ipc.core.vocabulary import (
    Body,
    Effects,
    Fail,
    Note,
    Offer,
    Publish,
    Resolve,
    Then,
    Unpublish,
)
from libos_ipc.errors import IpcError, error_for

__all__ = ["FROM_SERVER", "TO_SERVER", "SyncEnd", "value_name"]

TO_SERVER: dict[type, Code] = {
    RequestUpgrade: Code.SYNC_REQUEST_UPGRADE,
    RequestClose: Code.SYNC_REQUEST_CLOSE,
    ConfirmDowngrade: Code.SYNC_CONFIRM_DOWNGRADE,
    WithdrawWait: Code.SYNC_WITHDRAW,
    InUse: Code.SYNC_IN_USE,
    LocalWait: Code.SYNC_LOCAL_WAIT,
    Resume: Code.SYNC_RESUME,
}
FROM_SERVER: dict[int, type[ServerWord]] = {
    Code.SYNC_REQUEST_DOWNGRADE: RequestDowngrade,
    Code.SYNC_CONFIRM_UPGRADE: ConfirmUpgrade,
    Code.SYNC_CONFIRM_CLOSE: ConfirmClose,
    Code.SYNC_REFUSE: RefuseWait,
}

Send: TypeAlias = Callable[[Code, Body, float], Effects]
Ask: TypeAlias = Callable[[Code, tuple[object, ...], Then, float], Effects]


class SyncEnd:
    """`send` and `ask` go to the server; `max_value` is in bytes."""

    def __init__(self, max_value: int, send: Send, ask: Ask) -> None:
        self.client = SyncClient(max_value=max_value)
        self._send = send
        self._ask = ask

    def open(self, asks: tuple[int, int, bytes], ticket: object, now: float) -> Effects:
        """Open a handle: the fields of SYNC_OPEN. The ticket is resolved with its ID."""

        def then(answer: Body | IpcError, now: float) -> Effects:
            if isinstance(answer, IpcError):
                return [Fail(ticket, answer)]
            id = answer[0]
            assert isinstance(id, int)
            if self.client.opened(id):
                return [Resolve(ticket, (id,))]
            return self.open(asks, ticket, now)  # closed by another thread meanwhile

        return self._ask(Code.SYNC_OPEN, asks, then, now)

    def on_message(self, code: int, body: Body, now: float) -> Effects:
        """A message of the server."""
        assert isinstance(body, tuple)
        try:
            word = unpack(FROM_SERVER[code], body)  # type: ignore[arg-type]
        except IpcError as error:
            return [Note("sync", {"code": code, "error": str(error)})]
        effects = self.do(self.client.on_message(word), now)  # type: ignore[arg-type]
        # Nobody may have waited for it any more, and so nobody unlock.
        return [*effects, Offer(word.id)]

    def on_server_lost(self, error: IpcError) -> Effects:
        """Nobody serves any more: who waits for it need not."""
        return [Fail(ticket, error) for ticket in self.client.abandon_waits()]

    def do(self, wanted: ClientEffects, now: float) -> Effects:
        """What the client's machine wants done."""
        effects: Effects = []
        for each in wanted:
            code = TO_SERVER.get(type(each))
            if code is not None:
                effects += self._send(code, pack(each), now)  # type: ignore[arg-type]
            elif isinstance(each, Granted):
                effects.append(Resolve(each.ticket, each.value))
            elif isinstance(each, Failed):
                effects.append(Fail(each.ticket, error_for(each.errno, each.text)))
            elif isinstance(each, Changed):
                effects.append(Resolve(each.ticket, (each.version,)))
            elif isinstance(each, Commit):
                effects.append(Publish(each.id, *each.value))
            elif isinstance(each, Hold):
                effects.append(Publish(each.id, *each.value, each.in_use))
            elif isinstance(each, Closed):
                effects.append(Unpublish(each.id))
            elif isinstance(each, Note):
                effects.append(each)
        return effects


def value_name(id: int, vmid: int, version: int) -> str:
    """What a large value's file is called: this version of the handle, committed by `vmid`."""
    return f"value-{id}-{vmid}-{version}"
