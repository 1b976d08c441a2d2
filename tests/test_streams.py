"""Streams of one-way messages, over each transport: what a handler keeps stays what it was."""

from __future__ import annotations

import pytest
from processes import DEADLINE_S, Peer

from libos_ipc import Group, Message

BY = pytest.mark.parametrize("transport", ["auto", "native", "zmq"], indirect=True)
STREAM, BATCH, TOLD = range(70, 73)
#: More than are read at a time, and more than are kept to be used again.
COUNT = 3000


def collector(group: Group) -> None:
    """STREAM and BATCH keep every third message, and the field of another; TOLD tells them."""
    messages: list[Message] = []
    fields: list[bytes] = []

    def keep(message: Message) -> None:
        number = int(message.payload)
        if number % 3 == 0:
            messages.append(message)
        elif number % 3 == 1:
            fields.append(message.payload)

    group.on(STREAM)(keep)

    @group.on(BATCH, batch=True)
    def keep_some(together: list[Message]) -> None:
        for message in together:
            keep(message)
        del together[::2]  # it is ours

    @group.on(TOLD)
    def tell(message: Message) -> object:
        return [list(message) for message in messages], fields


@BY
@pytest.mark.parametrize("code", [STREAM, BATCH], ids=["each", "batches"])
def test_messages_that_a_handler_keeps_do_not_change(group: Group, code: int) -> None:
    with Peer(group, collector) as peer:
        for number in range(COUNT):
            group.send(peer.vmid, code, b"%d" % number, timeout=DEADLINE_S)
        messages, fields = group.request(
            peer.vmid,
            TOLD,
            type=tuple[list[tuple[int, int, int, bytes]], list[bytes]],
            timeout=DEADLINE_S,
        )
    assert messages == [(group.vmid, code, 0, b"%d" % n) for n in range(0, COUNT, 3)]
    assert fields == [b"%d" % n for n in range(1, COUNT, 3)]
