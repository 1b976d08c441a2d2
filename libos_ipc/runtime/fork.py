"""What happens around a fork, in the order in which it must.

Python calls three hooks. *Before*: it cannot refuse (what it raises is only printed), and
another thread may be inside it too, or run between it and the fork. *In the parent*: also when
the fork has failed. *In the child*: on the only thread that is left, with every lock in
whatever state other threads had it.

Each thread's preparation is kept under its own identity; the transports are ended by the first
that prepares, and made again by the last that is done. The child rebuilds from its own thread's
preparation and closes what the others' had opened.

From the pause on, until parent and child are members as ever, the thread that forks takes no
signal: a handler that uses the group would wait for what that thread itself holds over the fork
(`pause.py`), or, in the child, find the parent's session. Another thread may still take one, and
Python run its handler in the main thread, in one of our hooks: should it raise there, the parent
goes on all the same (`each`).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from libos_ipc._native import block_signals, set_blocked
from libos_ipc.runtime.children import of_this_thread
from libos_ipc.runtime.threads import OTHERS_SIGNALS

if TYPE_CHECKING:
    import mmap
    from types import FrameType

    from libos_ipc.runtime.node import Node
    from libos_ipc.runtime.sockets import Sockets

__all__ = ["ForkHooks", "ForkPlan", "Parting", "each", "twice"]

log = logging.getLogger("libos_ipc")


class ForkPlan(NamedTuple):
    """What was prepared for a child before the fork."""

    vmid: int
    pid: int
    sockets: Sockets
    page: mmap.mmap  #: shared with the child, which first of all writes its OS pid there


class Parting(NamedTuple):
    """What the two processes of a fork do first of all, in this order, made ready before it.

    Whatever Python touches after a fork is a page to be copied, since it counts a reference there:
    a call of a method touches the names on the way to it, the order in which classes are searched
    for these, the function and its code. So calls are bound beforehand, and objects made.
    """

    parents: list[Callable[[], object]]
    childs: list[Callable[[], object]]
    #: what then begins the child's life in a thread, beside something else; None if it has none
    begin: Callable[[Callable[[], None]], None] | None


#: What was made ready for a child, as far as it was.
Ready: TypeAlias = "tuple[ForkPlan | None, Parting | None]"


class ForkHooks:
    """The hooks of this process, for all groups that it is in: `nodes` lists these. `on_fork` is
    called first of all, `on_child` last in the child, in any thread."""

    def __init__(
        self,
        nodes: Callable[[], Iterable[Node]],
        on_fork: Callable[[], None],
        on_child: Callable[[], None],
    ) -> None:
        self._nodes = nodes
        self._on_fork = on_fork
        self._on_child = on_child
        self._plans: dict[int, dict[Node, Ready]] = {}
        self._blocked: dict[int, int] = {}  # the signals that each thread had blocked itself
        #: by thread whose hook before the fork came to its end: the children it had, if known
        self._ready: dict[int, frozenset[int] | None] = {}
        self._registered = False

    def register(self) -> None:
        """Have Python call us from now on. Once is enough, and there is no way back."""
        if not self._registered:
            self._registered = True
            os.register_at_fork(
                before=self._before,
                after_in_parent=self._after_in_parent,
                after_in_child=self._after_in_child,
            )

    def _before(self) -> None:
        self._on_fork()
        joins = not _is_for_exec(sys._getframe(1))
        plans = self._plans[threading.get_ident()] = {}
        for node in list(self._nodes()):
            node.await_birth()  # after which it may be known to be none
        for node in list(self._nodes()):
            try:
                plans[node] = node.prepare_fork(joins), None
            except Exception:
                log.exception("preparing a fork in group %s", node.file.name)
        self._blocked[threading.get_ident()] = block_signals(0)  # known first, whatever a handler
        block_signals(OTHERS_SIGNALS)  # raises that comes now
        for node, (plan, _) in plans.items():
            try:
                plans[node] = plan, node.pause(plan)
            except Exception:
                log.exception("pausing for a fork in group %s", node.file.name)
        self._ready[threading.get_ident()] = of_this_thread() if joins and plans else None

    def _after_in_parent(self) -> None:
        try:
            calls = self._calls_of_parent()
        except BaseException:
            each(self._calls_of_parent())
            raise
        each(calls)

    def _calls_of_parent(self) -> list[Callable[[], object]]:
        me, child = threading.get_ident(), list[int]()
        calls: list[Callable[[], object]] = [lambda: child.append(self._find_child())]
        for node, ready in self._plans.get(me, {}).items():
            calls += node.forked_parent(*ready, child)
        return [*calls, partial(self._plans.pop, me, None), partial(twice, self._take_signals)]

    def _after_in_child(self) -> None:
        me = threading.get_ident()
        prepared, self._plans = self._plans, {}
        mine = prepared.pop(me, {}) if me in self._ready else {}
        for plans in prepared.values():
            for plan, _ in plans.values():
                if plan is not None:
                    plan.sockets.close()
        for node in self._nodes():
            # What a signal handler that raised has broken off: no group is the parent's here.
            mine.setdefault(node, (None, None))
        beginnings = []
        for node, (plan, parting) in mine.items():
            try:
                _, steps, begin = parting or node.part(plan)
                for step in steps:
                    step()
                if begin is not None:
                    beginnings.append(begin)
            except Exception:
                log.exception("joining group %s after a fork", node.file.name)
                node.on_lost()
        # Last, and the rest in one of these threads: each takes the interpreter as soon as it can.
        rest: Callable[[], None] = partial(self._end_child, mine)
        for begin in beginnings:
            begin(rest)
            rest = _nothing
        rest()
        self._take_signals()
        self._blocked.clear()
        self._ready.clear()

    def _end_child(self, made: dict[Node, Ready]) -> None:
        """What is not needed at once, and the end of what was made ready."""
        self._on_child()
        made.clear()

    def _find_child(self) -> int:
        """Which process this thread has forked just now: 0 if that is not certain. It is asked
        here, as long as nobody can have waited for the child."""
        before = self._ready.get(threading.get_ident())
        after = None if before is None else of_this_thread()
        if before is None or after is None or len(after - before) != 1:
            return 0
        return next(iter(after - before))

    def _take_signals(self) -> None:
        me = threading.get_ident()
        blocked = self._blocked.get(me)
        if blocked is not None:
            set_blocked(blocked)
        self._ready.pop(me, None)
        self._blocked.pop(me, None)


def each(calls: Iterable[Callable[[], object]]) -> None:
    """Call all of them. In the main thread a signal handler may raise at the end of any, and in the
    middle of one that is Python: that ends this one alone, and is raised behind the last."""
    left = iter(calls)
    raised: BaseException | None = None
    while True:
        try:
            for call in left:
                call()
            break
        except BaseException as error:
            raised = error
    if raised is not None:
        raise raised


def twice(call: Callable[[], object]) -> None:
    """Call it, and once more if it was broken off: it does what is left to do."""
    try:
        call()
    except BaseException:
        call()
        raise


def _nothing() -> None:
    """All is done already."""


def _is_for_exec(caller: FrameType) -> bool:
    """Whether `subprocess` forks, as it does for a `preexec_fn`: its child closes all descriptors
    and execs. Were it to join, ZeroMQ would abort it in between."""
    code = caller.f_code
    return code.co_name == "_execute_child" and caller.f_globals.get("__name__") == "subprocess"
