"""Where handlers run: on threads of their own, never on the worker.

Messages wait in one queue, in the order of their arrival. Until the process has registered its
first handler, or has said that it is ready, they are held. One thread takes them one after the
other (more, if a handler asks for more); `serve` makes the caller's thread that one. A
coroutine handler runs on an event loop of its own and does not hold up the next message.

While the queue is empty, the thread sits where messages arrive. Those that come by a lane it then
reads itself, and calls their handlers, all within `Exchange.serve`, in C; what that cannot do is
done by the methods here that are made for it.

A handler may fork. In the parent it goes on and answers; in the child the request is not ours,
so nothing is answered, and a dispatch thread that finds itself alone in a child ends the
process when its handler returns.

Before a fork the threads are ended, if they are idle or soon become so. A handler that runs on
is left alone: waiting for it might wait for the forking thread itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from libos_ipc._native import Exchange
from libos_ipc.core.vocabulary import Message
from libos_ipc.errors import NoHandler
from libos_ipc.runtime.handlers import Handler, Handlers
from libos_ipc.runtime.replies import Reader, Replies, answered, own_errno, refuse
from libos_ipc.runtime.seat import Seat
from libos_ipc.runtime.shortage import AGAIN_S
from libos_ipc.runtime.threads import join_native

if TYPE_CHECKING:
    from libos_ipc.runtime.tasks import Tasks

__all__ = ["Dispatcher", "Replies"]

#: Seconds that a fork waits for a running handler to return.
PATIENCE_S = 0.05
#: Messages that a handler of batches gets at once, about: one that waits is not kept waiting long.
MOST_AT_ONCE = 256


class Dispatcher:
    """The queue of one process in one group, its handlers and its threads."""

    def __init__(self, header_weight: int) -> None:
        self.handlers = Handlers()
        #: what a child does before it ends, whose only thread was a handler that returned
        self.on_alone: Callable[[], None] = lambda: None
        self._header_weight = header_weight
        self._me = 0
        self._finish: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Message | None] = SimpleQueue()
        self._held: deque[Message] = deque()
        self._ahead: deque[Message] = deque()  # taken from the queue to be looked at
        self._withdrawn: set[tuple[int, int]] = set()
        self._waiting: set[tuple[int, int]] = set()
        self._threads: dict[threading.Thread, bool] = {}  # whether inside a handler
        self._stopping = self._serving = False
        self.tasks: Tasks | None = None
        self._replies: Replies | None = None
        self._seat: Seat | None = None
        self._exchange: Exchange | None = None

    # ---- life

    def start(self, me: int, replies: Replies, seat: Seat, reader: Reader | None) -> None:
        """Begin, or go on after a pause, as VMID `me`: answer by `replies`, wait in `seat`, or, if
        there is one, in the exchange of `reader`."""
        self._me = me
        self._replies = replies
        self._seat = seat
        if reader is not None:
            self._exchange = reader.exchange
            self._finish = reader.finish_round
        self._stopping = False
        if self.handlers.ready:
            self._spawn()
        if self.tasks is not None:
            self.tasks.resume()

    def partings(self) -> list[Callable[[], object]]:
        """What a forked child does: the handlers stay, queue and threads were the parent's. See
        `Forking.part`."""
        fresh = Dispatcher(self._header_weight)
        fresh.handlers, fresh.on_alone = self.handlers, self.on_alone
        be_fresh = partial(setattr, self, "__dict__", vars(fresh))
        return [be_fresh] if self.tasks is None else [self.tasks.abandon, be_fresh]

    def pause(self) -> None:
        """End the threads that are idle, or become so within the patience of a fork."""
        self._stopping = True
        threads = list(self._threads)
        for _ in threads:
            self._queue.put(None)
        self._nudge()
        deadline = time.monotonic() + PATIENCE_S
        for thread in threads:
            if thread is threading.current_thread():
                continue
            while thread.is_alive() and not (
                self._is_inside(thread) and time.monotonic() > deadline
            ):
                thread.join(0.001)
            if not thread.is_alive():
                join_native(thread)
        if self.tasks is not None:
            self.tasks.pause()

    def _is_inside(self, thread: threading.Thread) -> bool:
        """Whether a handler runs in this thread, as far as can be told."""
        called = self._exchange is not None and self._exchange.inside > 0
        return called or self._threads.get(thread, False)

    def stop(self) -> None:
        """The group is closed: nothing is dispatched any more."""
        self.pause()
        self._queue.put(None)  # for `serve`
        self._nudge()
        if self.tasks is not None:
            self.tasks.close()
            self.tasks = None

    # ---- registering

    def add(
        self, code: int, function: Callable[..., Any], type: Any, threads: int, batch: bool
    ) -> None:
        """Let `function` handle messages of this code, on `threads` threads or more."""
        self.handlers.add(code, Handler(function, type, batch))
        self.handlers.threads = max(self.handlers.threads, threads)
        self.set_ready()

    def set_ready(self) -> None:
        """Handle what was held, and everything from now on."""
        with self._lock:
            while self._held:
                self._queue.put(self._held.popleft())
            self.handlers.ready = True  # only now: nothing may overtake what was held
        self._spawn()

    def _spawn(self) -> None:
        with self._lock:
            if self._serving or self._stopping or self._replies is None:
                return
            for thread in [t for t in self._threads if not t.is_alive()]:
                del self._threads[thread]
            while len(self._threads) < self.handlers.threads:
                thread = threading.Thread(target=self._run, name="libos_ipc dispatch", daemon=True)
                self._threads[thread] = False
                try:
                    thread.start()
                except RuntimeError:
                    del self._threads[thread]  # none is to be had; or the interpreter is ending
                    self._replies.clock.later(AGAIN_S, self._spawn)
                    return

    # ---- what the session brings; under its lock

    def deliver(self, message: Message) -> None:
        """Take a message in."""
        if message.seq:
            self._waiting.add((message.src, message.seq))
        if not self.handlers.ready:
            with self._lock:
                if not self.handlers.ready:
                    self._held.append(message)
                    return
        self._queue.put(message)
        self._nudge()

    def _nudge(self) -> None:
        """A thread of ours may be waiting in the loop instead of at the queue."""
        if self._seat is not None:
            self._seat.nudge(urgent=False)

    def withdraw(self, src: int, seq: int) -> None:
        """Do not handle this request if it has not been taken up yet."""
        if (src, seq) in self._waiting:
            self._withdrawn.add((src, seq))
        elif self._exchange is not None:
            self._exchange.withdraw(src, seq)

    # ---- handling

    def serve(self) -> None:
        """Handle messages in this thread until `stop`."""
        self._serving = True
        self.set_ready()
        self.pause()
        self._stopping = False
        if self.tasks is not None:  # coroutines that began before this go on
            self.tasks.resume()
        try:
            while (message := self._next()) is not None or not self._stopping:
                if message is not None:
                    self._handle(message)
        finally:
            self._serving = False

    def _next(self) -> Message | None:
        """The next message; None to look whether we are to stop. Waits beside the worker."""
        queue = self._queue
        if self._ahead:
            return self._ahead.popleft()
        if self._seat is not None and queue.empty():  # `pause` puts something in, too
            if self._exchange is not None:
                quick, shared = self.handlers.quick, self.handlers.threads > 1
                self._exchange.serve(self, self._replies, quick, queue.qsize, shared)
                if queue is not self._queue:
                    return None  # a handler forked, and this is the child
            else:
                self._seat.sit(queue.qsize, None, urgent=False)
        return queue.get()

    def _run(self) -> None:
        me = threading.current_thread()
        threads = self._threads
        while not self._stopping:
            try:
                message = self._next()
                if message is not None:
                    threads[me] = True
                    self._handle(message)
            except MemoryError:
                time.sleep(AGAIN_S)  # and go on: nobody else serves
            if threads is not self._threads:
                # The handler forked, and this is the child, with no other thread than this.
                self.on_alone()
                os._exit(0)
            threads[me] = False
        threads.pop(me, None)
        if not self._stopping:  # any more: whoever began anew may have counted on this one
            self._spawn()

    def _handle(self, message: Message) -> None:
        """Handle a message of the queue."""
        replies = self._replies
        assert replies is not None
        message = self._as_wanted(message)
        replies.exchange.handle(self, replies, self.handlers.quick, message)

    def _as_wanted(self, message: Message) -> Message:
        """A message of the queue is taken up: of no code if it has been withdrawn."""
        key = message.src, message.seq
        self._waiting.discard(key)
        if key not in self._withdrawn:
            return message
        self._withdrawn.discard(key)
        return message._replace(code=0, seq=0)

    def run(self, message: Message) -> None:
        """Call the handler of a message that has been taken up, and answer."""
        replies = self._replies
        assert replies is not None
        src, code, seq, _ = message
        handler = self.handlers.get(code)
        if handler is not None and handler.batch and not seq:
            self.run_batch([message])
            return
        try:
            self._ask_policy(message)
            if handler is None:
                raise NoHandler(f"no handler for code {code} there: that takes group.on({code})")
            if handler.batch:
                raise NoHandler(f"code {code} is handled in batches: send it, without a request")
            arguments = handler.arguments(message)
        except BaseException as error:
            refuse(replies, message, error, own_errno(error))
            return
        try:
            result = handler.function(*arguments)
            if handler.is_async:
                self._run_async(handler, result, message)
            elif seq:
                answer = result if type(result) is bytes else handler.encode(result)
                self.answer(replies, src, seq, answer)
        except BaseException as error:
            self.failed(replies, message, error)

    def _ask_policy(self, message: Message) -> None:
        policy = self.handlers.policy
        if policy is not None and message.src != self._me:
            policy(message.src, message.code, message.payload)

    def run_batch(self, messages: list[Message]) -> None:
        """The same for one-way messages of one code that have been taken up, in one call."""
        replies = self._replies
        assert replies is not None
        handler = self.handlers.get(messages[0].code)
        if handler is None or not handler.batch:  # replaced meanwhile
            for message in messages:
                self.run(message)
            return
        wanted = []
        for message in messages:
            try:
                self._ask_policy(message)
                handler.arguments(message)
                wanted.append(message)
            except BaseException as error:
                refuse(replies, message, error)
        if not wanted:
            return
        first = wanted[0]  # the list is the handler's now
        try:
            result = handler.function(*handler.batch_arguments(wanted))
            if handler.is_async:
                self._run_async(handler, result, first)
        except BaseException as error:
            self.failed(replies, first, error)

    # ---- what the exchange leaves to us

    def gather(self, run: list[Message], serves: bool) -> Message | None:
        """Add the one-way messages of the same code that are next in the queue.

        The one behind them has to be taken, too: it is the next of the exchange if that serves.
        """
        code = run[0].code
        while self.handlers.threads == 1 and len(run) < MOST_AT_ONCE:
            try:
                message = self._queue.get_nowait()
            except Empty:
                return None
            if message is None:
                self._queue.put(None)  # it is not for us
                return None
            if message.code == code and not message.seq:
                run.append(message)
            elif serves:
                return self._as_wanted(message)
            else:
                self._ahead.append(message)
                return None
        return None

    def take(self) -> Message | None:
        """A message of the queue that is to be handled; None to look there for more."""
        try:
            message = self._queue.get_nowait()
        except Empty:
            return None
        if message is None:
            self._queue.put(None)  # it is not for the exchange
            return None
        return self._as_wanted(message)

    def answer(self, replies: Replies, src: int, seq: int, payload: bytes | memoryview) -> None:
        """Answer a request, unless this is a child that was forked meanwhile."""
        if replies is self._replies:
            replies.answer(src, seq, payload)

    def failed(self, replies: Replies, message: Message, error: BaseException) -> None:
        """A handler has raised. So does this, if that is to end the thread that serves."""
        if replies is self._replies:
            refuse(replies, message, error)
        if self._serving and isinstance(error, SystemExit | KeyboardInterrupt):
            raise error

    def consumed(self, replies: Replies, src: int, payload: bytes) -> None:
        """A message of the queue has been taken up."""
        replies.consumed(src, self._header_weight + len(payload))

    def announce(self, replies: Replies, src: int) -> None:
        """The sender is to hear how much has been taken up."""
        replies.announce(src)

    def finish_round(self) -> None:
        """In the exchange's round, when something has come that is not for handlers."""
        self._finish()

    # ---- coroutines

    def _run_async(
        self, handler: Handler, coroutine: Coroutine[Any, Any, Any], message: Message
    ) -> None:
        replies = self._replies
        assert replies is not None
        if self.tasks is None:
            from libos_ipc.runtime.tasks import Tasks

            self.tasks = Tasks()
        work = answered(handler, coroutine, message, replies, lambda: replies is self._replies)
        self.tasks.run(work, handler.loop)
