"""Peer: pyzmq with a worker thread, a queue and a dispatch thread, written by hand.

ZeroMQ's sockets belong to one thread, so a program whose threads all may ask, and whose handlers
may take their time, gives them to a worker. This is that program, as small and fast as it
gets; both processes have the same three threads.

      asking process                          answering process
      main: table, command, wake, sleep
        worker: send ───────── ipc:// ──────▶ worker: receive
                                                dispatch: handler, command, wake
        worker: receive ◀───── ipc:// ─────── worker: send
      main: awake

- Commands go through a `deque` (its append and popleft are atomic); the worker is woken by an
  eventfd, and only when it said that it is about to sleep. It says so before it looks at the deque
  for the last time, so that no command is left lying.
- A caller sleeps on a lock of its own, which the worker releases: the cheapest thing that
  Python's threads can wait for.
- A message is one frame: a header (size, number, code) and the payload.
- The worker takes one message per poll and moves frames one by one: asking the socket for more
  (its EVENTS option) and pyzmq's multipart calls were tried and cost a third on top.

What it leaves out of a library's work: time-outs, peers that die, credits for slow receivers,
numbering and acknowledgement on the link, several peers, forks, and errors in handlers.
"""

from __future__ import annotations

import itertools
import os
import queue
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.contender import PAYLOAD, Sampler, Setup, answering, main, timed

HEADER = struct.Struct("<QQB")
ECHO = 64


class Worker:
    """The thread that owns a socket.

    `transmit` sends a command through it, `received` takes the next message from it; both are
    called in that thread alone.
    """

    def __init__(
        self,
        kind: int,
        transmit: Callable[[Any, Any], None],
        received: Callable[[Any], None],
    ) -> None:
        import zmq

        self.socket: Any = zmq.Context.instance().socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self._transmit = transmit
        self._received = received
        self._commands: deque[Any] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._asleep = False

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, command: Any) -> None:
        """Hand a command over, from any thread."""
        self._commands.append(command)
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        import zmq

        socket, commands, poll = self.socket, self._commands, zmq.zmq_poll
        watched = [(socket, zmq.POLLIN), (self._wake, zmq.POLLIN)]
        while True:
            self._asleep = True
            ready = poll(watched, 0 if commands else -1)
            self._asleep = False
            for source, _ in ready:
                if source is socket:
                    self._received(socket)
                else:
                    os.eventfd_read(self._wake)
            while commands:
                self._transmit(socket, commands.popleft())


class Asking:
    """Requests from any thread; each waits for the answer that carries its number."""

    def __init__(self, address: str) -> None:
        import zmq

        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[threading.Lock, list[bytes]]] = {}
        self._worker = Worker(zmq.DEALER, self._transmit, self._received)
        self._worker.socket.connect(address)
        self._worker.start()

    def request(self, code: int, payload: bytes) -> bytes:
        number = next(self._numbers)
        awake = threading.Lock()
        awake.acquire()
        answer: list[bytes] = []
        self._waiting[number] = (awake, answer)
        self._worker.send(HEADER.pack(HEADER.size + len(payload), number, code) + payload)
        awake.acquire()
        return answer[0]

    @staticmethod
    def _transmit(socket: Any, message: bytes) -> None:
        socket.send(message)

    def _received(self, socket: Any) -> None:
        message = socket.recv()
        _, number, _ = HEADER.unpack_from(message)
        awake, answer = self._waiting.pop(number)
        answer.append(message[HEADER.size :])
        awake.release()


class Answering:
    """Requests received by the worker, handled one after the other by the dispatch thread."""

    def __init__(self, address: str, handlers: dict[int, Callable[[bytes], bytes]]) -> None:
        import zmq

        self._more = zmq.SNDMORE
        self._handlers = handlers
        self._requests: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
        self._worker = Worker(zmq.ROUTER, self._transmit, self._received)
        self._worker.socket.bind(address)
        self._worker.start()
        threading.Thread(target=self._dispatch, daemon=True).start()

    def _received(self, socket: Any) -> None:
        self._requests.put((socket.recv(), socket.recv()))

    def _dispatch(self) -> None:
        while True:
            sender, message = self._requests.get()
            _, number, code = HEADER.unpack_from(message)
            result = self._handlers[code](message[HEADER.size :])
            answer = HEADER.pack(HEADER.size + len(result), number, 0) + result
            self._worker.send((sender, answer))

    def _transmit(self, socket: Any, command: tuple[bytes, bytes]) -> None:
        sender, answer = command
        socket.send(sender, self._more)
        socket.send(answer)


def serve(address: str) -> None:
    Answering(address, {ECHO: lambda payload: payload})
    threading.Event().wait()


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    with tempfile.TemporaryDirectory() as directory:
        address = f"ipc://{directory}/router"
        with answering(lambda: serve(address), setup):
            asking = Asking(address)

            def request(payload: bytes) -> bytes:
                return asking.request(ECHO, payload)

            assert request(PAYLOAD) == PAYLOAD
            yield lambda count: timed(request, count)


if __name__ == "__main__":
    main(opened)
