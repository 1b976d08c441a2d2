"""`Group`: a process's membership in a group of processes, and the way into it.

The list of groups that this process is in is the only state of the package outside objects.
"""

from __future__ import annotations

import atexit
import multiprocessing.util
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from libos_ipc.config import GroupConfig
from libos_ipc.core.codes import Code
from libos_ipc.core.leader import LEADER_VMID, Applicant, Process
from libos_ipc.core.member import HEADER_WEIGHT
from libos_ipc.core.vocabulary import Body, Journal, State
from libos_ipc.errors import (
    InvalidArgument,
    MessageTooLarge,
    NotJoined,
    PeerDied,
    Timeout,
    WouldBlock,
)
from libos_ipc.ids import Ids, Vmids
from libos_ipc.messaging import as_payload, checked_code, from_payload
from libos_ipc.runtime import leader_process
from libos_ipc.runtime.children import ExitStatus
from libos_ipc.runtime.dispatch import Handler
from libos_ipc.runtime.fork import ForkHooks
from libos_ipc.runtime.joining import join as join_node
from libos_ipc.runtime.liveness import start_time
from libos_ipc.runtime.node import Node
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.session import Session
from libos_ipc.spawning import Child, fork, run_target, wait_for_child
from libos_ipc.tokens import Token

__all__ = ["GROUP_VARIABLE", "Group", "Member", "current"]

#: Environment variable that holds the token of the group to join.
GROUP_VARIABLE = "LIBOS_IPC_GROUP"

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])

_joined: list[Group] = []


class Member(NamedTuple):
    """A live process of the group.

    `vmid` names it in the library, `pid`, `ppid` and `pgid` in the group, `os_pid` in the
    kernel (0 until that is known). `state` is `"starting"` or `"running"`; `joined_at` is
    seconds since the epoch, 0 while starting.
    """

    vmid: int
    pid: int
    ppid: int
    pgid: int
    os_pid: int
    state: str
    joined_at: float


class Group:
    """This process's membership in a group.

    Made by `create` and `join`, never directly. Any thread may use it. After a fork the same
    object is the child's own membership: another `vmid`, the same handlers, nothing waiting.
    A `Group` may be pickled: unpickling joins, or finds the membership that is there already.

    >>> with libos_ipc.Group.create() as group:
    ...     len(group.members())
    1
    """

    ids: Ids
    vmids: Vmids

    def __init__(self, node: Node) -> None:
        self._node = node
        self.ids = Ids(self)
        self.vmids = Vmids(self)
        node.dispatcher.on_alone = leave_all
        _joined.append(self)
        _install()

    # ---- into the group and out of it

    @classmethod
    def create(
        cls,
        name: str | None = None,
        *,
        leader: Literal["process", "embedded"] = "process",
        runtime_dir: str | os.PathLike[str] | None = None,
        config: GroupConfig | None = None,
    ) -> Group:
        """Found a group and join it. Blocks until the leader answers (about 0.1 s).

        The leader is a small detached process, which lives until the last member leaves; with
        `"embedded"` it is this process, and the group ends with it. Without a `name` one is
        made up. GroupExists if a group of that name is alive, InvalidArgument for a name that
        is none, PermissionDenied for a runtime directory that is not safely ours.
        """
        if leader not in ("process", "embedded"):
            raise InvalidArgument(f'leader must be "process" or "embedded", not {leader!r}')
        config = config or GroupConfig.from_environment()
        directory = GroupDir(runtime_dir, name or f"group-{os.getpid()}-{secrets.token_hex(3)}")
        if leader == "process":
            leader_process.start(directory, config)
            return cls(join_node(directory, parent=0, may_lead=True, timeout=10.0))
        return cls(_found_here(directory, config))

    @classmethod
    def join(
        cls,
        name: str | None = None,
        *,
        runtime_dir: str | os.PathLike[str] | None = None,
        timeout: float | None = 10.0,
        may_lead: bool = True,
    ) -> Group:
        """Join a group: by its name, by a token, or, with neither, by `LIBOS_IPC_GROUP`.

        Blocks until the leader has answered, at most `timeout` seconds (Timeout). NotJoined if
        there is no such group, LeaderLost if nobody leads it any more, PermissionDenied if
        this user may not join.
        """
        name = name or os.environ.get(GROUP_VARIABLE)
        if not name:
            raise NotJoined(f"no group to join: give its name or a token, or set {GROUP_VARIABLE}")
        parent, group_id = 0, ""
        if Token.is_one(name):
            token = Token.parse(name)
            name, runtime_dir = token.name, runtime_dir or token.runtime_dir
            parent, group_id = token.issuer, token.group_id
        directory = GroupDir(runtime_dir, name)
        return cls(
            join_node(
                directory, parent=parent, may_lead=may_lead, timeout=timeout, group_id=group_id
            )
        )

    def token(self) -> str:
        """What another process of this user needs to join; that process counts as our child."""
        file = self._node.file
        return str(Token(file.name, file.id, self.vmid, str(self._node.directory.runtime_dir)))

    def environ(self) -> dict[str, str]:
        """`os.environ` with the token in it, for `subprocess`."""
        return {**os.environ, GROUP_VARIABLE: self.token()}

    def close(self) -> None:
        """Leave. What was sent arrives first (at most `linger` seconds); waits for no child.

        Everything this process owns in the group is given back before it returns. Calls that
        wait in other threads end with NotJoined. A second time does nothing.
        """
        if self in _joined:
            _joined.remove(self)
            self._node.leave()

    @property
    def closed(self) -> bool:
        """Whether this process has left, or could not join after a fork."""
        return self._session.closed

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[str], Group], tuple[str]]:
        return _unpickle, (self.token(),)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"vmid={self.vmid}, pid={self.pid}"
        return f"<Group {self.name!r}: {state}>"

    # ---- who I am

    @property
    def _session(self) -> Session:
        return self._node.session

    @property
    def name(self) -> str:
        """The group's name."""
        return self._node.file.name

    @property
    def vmid(self) -> int:
        """This process's VMID."""
        return self._node.identity.vmid

    @property
    def parent_vmid(self) -> int:
        """The VMID of the process that forked us or issued our token, 0 if there is none."""
        return self._node.identity.parent_vmid

    @property
    def leader_vmid(self) -> int:
        """The leader's VMID."""
        return self._node.session.member.leader_vmid

    @property
    def is_leader(self) -> bool:
        """Whether this process leads."""
        return self.vmid == self.leader_vmid

    @property
    def epoch(self) -> int:
        """Counts the leaders, from 1."""
        return self._node.session.member.epoch

    @property
    def pid(self) -> int:
        """This process's ID in the group."""
        return self._node.identity.pid

    @property
    def ppid(self) -> int:
        """The parent's ID, 0 if there is none."""
        return self._node.identity.ppid

    @property
    def pgid(self) -> int:
        """The ID of our process group."""
        return self._node.identity.pgid

    @property
    def config(self) -> GroupConfig:
        """The group's configuration."""
        return self._node.file.config

    def members(self) -> list[Member]:
        """Every live process of the group, in the order of their VMIDs. Asks the leader."""
        rows, _ = self._session.ask_leader(Code.GET_MEMBERS)
        members = []
        for row in rows:
            known = dict(zip(Process.__slots__, row, strict=True))
            if known["state"] != State.DETACHED:
                known["state"] = State(known["state"]).name.lower()
                members.append(Member(*(known[name] for name in Member._fields)))
        return sorted(members)

    # ---- processes

    def fork(self) -> int:
        """Fork: the child's pid in the group here, 0 in the child, which has joined by then.

        Forks this process for every group it is in, like `os.fork`. `wait` takes the child's
        exit status.
        """
        return fork(self)[0]

    def spawn(self, target: Callable[..., object], *args: object, **kwargs: object) -> Child:
        """Fork a child that runs `target` and ends: 0, what it passes to `sys.exit`, or 1 when
        it raises (its traceback goes to stderr)."""
        pid, vmid, os_pid = fork(self)
        if not pid:
            run_target(self, target, args, kwargs)
        return Child(self, pid, vmid, os_pid)

    def wait(self, pid: int = -1, timeout: float | None = None) -> ExitStatus:
        """Wait for the child `pid` (a group pid), or for any with -1, to end.

        Children are the processes that we forked in any way while in the group, and those that
        joined by our token. A zombie is taken away if `fork` or `spawn` of this group made it.
        Timeout if none ends in time; ChildProcessError if there is no such child.
        """
        return wait_for_child(self, pid, timeout)

    # ---- messages

    def on(
        self, code: int, type: Any = None, *, threads: int = 1
    ) -> Callable[[_Function], _Function]:
        """Decorator: the function handles messages of `code` (64 … 255).

        It gets a `Message`; with `type`, the decoded value and then the message. What it
        returns answers a request, what it raises is the requester's RemoteError. It runs on a
        dispatch thread (on at least `threads` of them, if several messages are to be handled
        at once), or, if it is a coroutine function, on an event loop: the one in which it is
        registered, else one of the library's. Messages that came before the first `on` or
        `ready` have waited. Forked children inherit it.

        >>> @group.on(70, type=list[int])
        ... def total(numbers, message):
        ...     return sum(numbers)
        """
        checked_code(code)
        if threads < 1:
            raise InvalidArgument(f"threads must be at least 1, not {threads!r}")

        def register(function: _Function) -> _Function:
            self._node.dispatcher.add(code, Handler(function, type), threads)
            return function

        return register

    def ready(self) -> None:
        """All handlers are registered: what waited is handled, other codes get NoHandler."""
        self._node.dispatcher.set_ready()

    def serve(self) -> None:
        """Handle messages in this thread, not in one of the library's, until the group closes."""
        self._session.check_open()
        self._node.dispatcher.serve()

    def policy(self, hook: Callable[[int, int, bytes], object] | None) -> None:
        """Ask `hook(src, code, payload)` before a message of another member is handled.

        What it raises is the answer, under its own errno: `raise PermissionDenied("…")`. It
        runs where handlers run. Forked children inherit it; None takes it away.
        """
        self._node.dispatcher.policy = hook

    def send(
        self, vmid: int, code: int, payload: object = b"", *, timeout: float | None = None
    ) -> None:
        """Send a message that wants no answer: in order and once, per pair of processes.

        Waits while the receiver owes more than `send_buffer` bytes, at most `timeout` seconds
        (Timeout; with 0 WouldBlock at once). PeerDied if the receiver is gone. Has it arrived?
        `flush` knows. The payload is bytes-like, or anything that msgspec encodes; a memoryview
        must not be changed before `flush` has returned.
        """
        body, size = self._checked(code, payload)
        self._session.send_user(vmid, code, body, size, timeout)

    def request(
        self,
        vmid: int,
        code: int,
        payload: object = b"",
        *,
        timeout: float | None = None,
        type: Any = None,
    ) -> Any:
        """Send a request and wait for its answer: bytes, or the decoded `type`.

        Timeout after `timeout` seconds, and the request is withdrawn at the receiver; RemoteError
        if the handler raised; NoHandler if there is none; PeerDied as soon as the kernel reports
        the receiver's death. Signals are handled while waiting.
        """
        body, size = self._checked(code, payload)
        answer = _as_bytes(self._session.call(vmid, code, body, timeout, size))
        return answer if type is None else from_payload(answer, type)

    def broadcast(
        self,
        code: int,
        payload: object = b"",
        *,
        exclude: Iterable[int] = (),
        timeout: float | None = 0,
    ) -> list[int]:
        """Send to every other member but those of `exclude`; the VMIDs that it was sent to.

        A member whose buffer stays full for `timeout` seconds in all, or which dies meanwhile,
        is left out of both. Asks the leader who is there.
        """
        body, size = self._checked(code, payload)
        left_out = {self.vmid, *exclude}
        deadline = None if timeout is None else time.monotonic() + timeout
        reached = []
        for member in self.members():
            if member.vmid in left_out:
                continue
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                self._session.send_user(member.vmid, code, body, size, left)
            except (Timeout, WouldBlock, PeerDied):
                continue
            reached.append(member.vmid)
        return reached

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was sent before has arrived: in the receiver's hands, if not yet
        with its handler. Timeout names who has not got everything."""
        self._node.flush(timeout)

    async def arequest(
        self,
        vmid: int,
        code: int,
        payload: object = b"",
        *,
        timeout: float | None = None,
        type: Any = None,
    ) -> Any:
        """`request` for asyncio. A cancelled one is withdrawn at the receiver."""
        from libos_ipc import aio

        body, size = self._checked(code, payload)
        answer = _as_bytes(await aio.call(self._session, vmid, code, body, size, timeout))
        return answer if type is None else from_payload(answer, type)

    async def asend(
        self, vmid: int, code: int, payload: object = b"", *, timeout: float | None = None
    ) -> None:
        """`send` for asyncio."""
        from libos_ipc import aio

        body, size = self._checked(code, payload)
        await aio.send(self._session, vmid, code, body, size, timeout)

    def _checked(self, code: int, payload: object) -> tuple[bytes | memoryview, int]:
        checked_code(code)
        body = as_payload(payload)
        size = HEADER_WEIGHT + len(body)
        if size > self.config.max_message:
            raise MessageTooLarge(
                f"a message of {size} bytes is over max_message ({self.config.max_message}): "
                "send it in parts, or found the group with a larger max_message"
            )
        return body, size


def _as_bytes(answer: Body) -> bytes:
    """The answer to a program's request: no fields, these are the library's own."""
    assert not isinstance(answer, tuple)
    return answer if isinstance(answer, bytes) else bytes(answer)


def current() -> Group:
    """The group that this process joined last and has not closed. NotJoined if there is none."""
    if not _joined:
        raise NotJoined("this process is in no group: use Group.create or Group.join")
    return _joined[-1]


def leave_all() -> None:
    """Leave every group; also what interpreter exit does."""
    for group in reversed(list(_joined)):
        group.close()


def _nodes() -> Iterator[Node]:
    return (group._node for group in list(_joined))


def _in_child() -> None:
    """In a forked child: groups that could not be joined are not ours."""
    _joined[:] = [group for group in _joined if not group.closed]


_hooks = ForkHooks(_nodes, _in_child)


def _install() -> None:
    """At the first group of a process: be called around forks and at its end."""
    if _hooks.register():
        # multiprocessing's children end without atexit; they forget what was registered before
        # they began, and then call what is registered for after a fork.
        _leave_with_multiprocessing(None)
        multiprocessing.util.register_after_fork(_hooks, _leave_with_multiprocessing)
    atexit.unregister(leave_all)
    atexit.register(leave_all)


def _leave_with_multiprocessing(_: object) -> None:
    """At the end of multiprocessing's work, after it has joined its own children."""
    multiprocessing.util.Finalize(None, leave_all, exitpriority=-100)


def _found_here(directory: GroupDir, config: GroupConfig) -> Node:
    """Found a group whose leader is this process."""
    directory.claim()
    try:
        leader = leader_process.make_leader(config, first_vmid=LEADER_VMID)
        os_pid, now, wall = os.getpid(), time.monotonic(), time.time()
        applicant = Applicant(os_pid, start_time(os_pid), os.getuid(), 0, True)
        admission, effects = leader.on_join(applicant, now, wall)
        hello = leader.on_hello(admission.vmid, *applicant[:3], now, wall)
        file = leader_process.new_group_file(directory.name, config)
        node = Node.admitted(directory, file, admission, leader=leader)
        for effect in [*effects, *(hello or [])]:
            if isinstance(effect, Journal):
                node.journal(effect.record)
        directory.publish(file)
    except BaseException:
        directory.remove()
        raise
    return node


def _unpickle(token: str) -> Group:
    group_id = Token.parse(token).group_id
    for group in _joined:
        if group._node.file.id == group_id:
            return group
    return Group.join(token)
