"""The dispatcher: where messages wait for a handler, and what handlers do with them.

As in the runtime: one queue in the order of arrival, held until the program is ready; taking a
message up is what consumes its bytes; a request withdrawn while it waited is passed over.
Handlers answer at once or later or refuse, and while they run they may send and ask themselves.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from libos_ipc.core.vocabulary import HEADER_WEIGHT, Message

if TYPE_CHECKING:
    from .node import SimNode

__all__ = ["Handlers"]

#: What a request's handler is to do with it, by its code.
ANSWER, REFUSE, LATE = 70, 71, 72
ONE_WAY = 80


class Handlers:
    """The queue of one node and its one dispatch thread."""

    def __init__(self, node: SimNode, ready: bool) -> None:
        self._node = node
        self.ready = ready
        self._queue: deque[Message] = deque()
        self._waiting: set[tuple[int, int]] = set()
        self._withdrawn: set[tuple[int, int]] = set()
        self._busy = False

    def __len__(self) -> int:
        return len(self._queue)

    def deliver(self, message: Message) -> None:
        """A message has come."""
        node = self._node
        node.world.history.on_delivered(node, message)
        if message.seq:
            self._waiting.add((message.src, message.seq))
        self._queue.append(message)
        self._go_on()

    def withdrawn(self, src: int, seq: int) -> None:
        """The requester does not wait any more."""
        if (src, seq) in self._waiting:
            self._withdrawn.add((src, seq))

    def set_ready(self) -> None:
        """Handle what was held."""
        self.ready = True
        self._go_on()

    def _go_on(self) -> None:
        if self.ready and self._queue and not self._busy:
            self._busy = True
            node = self._node
            node.world.soon(node.world.knobs.handler_s, self._handle, node.process)

    def _handle(self) -> None:
        node, world = self._node, self._node.world
        if node.dead:
            return
        self._busy = False
        src, code, seq, payload = self._queue.popleft()
        self._waiting.discard((src, seq))
        if node.member.consumed(src, HEADER_WEIGHT + len(payload)):
            node.perform(node.member.announce_credit(src, world.now))
        world.say("handle", node.vmid, src, code, seq)
        if (src, seq) in self._withdrawn:
            self._withdrawn.discard((src, seq))
        else:
            token = world.history.on_handled(node, code, seq, payload)
            if not seq:
                node.program.on_one_way(src)
            elif code == LATE:
                later = world.rng.random() * 20 * world.knobs.handler_s
                world.at(later, lambda: self._answer(src, code, seq, token), node.process)
            else:
                self._answer(src, code, seq, token)
        self._go_on()

    def _answer(self, src: int, code: int, seq: int, token: int) -> None:
        node, now = self._node, self._node.world.now
        if node.dead:
            return
        node.world.history.on_answered(node, token, refused=code == REFUSE)
        if code == REFUSE:
            node.perform(node.member.refuse(src, seq, errno.EREMOTEIO, f"refused {token}", now))
        else:
            node.perform(node.member.answer(src, seq, token.to_bytes(4, "big"), now))
