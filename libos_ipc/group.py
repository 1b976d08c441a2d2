"""`Group`: a process's membership in a group of processes, and the way into it.

The list of groups that this process is in is the only state of the package outside objects.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from libos_ipc.core.codes import Code
from libos_ipc.errors import (
    InvalidArgument,
    NotJoined,
)
from libos_ipc.ids import Ids, Vmids
from libos_ipc.messaging import Messaging
from libos_ipc.metadata import Meta, Metadata
from libos_ipc.runtime.children import ExitStatus
from libos_ipc.runtime.fork import ForkHooks
from libos_ipc.runtime.founding import LeaderStart
from libos_ipc.runtime.muster import Muster
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.stacks import StackFile
from libos_ipc.sharing import Sharing
from libos_ipc.signals import Signals
from libos_ipc.spawning import Child, fork, run_target, wait_for_child
from libos_ipc.tokens import Token

if TYPE_CHECKING:
    from libos_ipc.config import GroupConfig
    from libos_ipc.locks import Locks
    from libos_ipc.runtime.node import Node
    from libos_ipc.runtime.session import Session

__all__ = ["GROUP_VARIABLE", "Group", "Member", "current"]

#: Environment variable that holds the token of the group to join.
GROUP_VARIABLE = "LIBOS_IPC_GROUP"

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


class Group(Messaging, Signals, Metadata, Sharing):
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
    locks: Locks

    def __init__(self, node: Node) -> None:
        from libos_ipc.locks import Locks

        if isinstance(node, str):
            raise TypeError("a Group is made by Group.create, or Group.join")
        self._node = node
        self._muster = Muster()
        self.ids = Ids(self)
        self.vmids = Vmids(self)
        self.meta = Meta(self)
        self.locks = Locks(self)
        self._quick_files = node.descriptions.quick
        self._quick_flocks = node.descriptions.flocks
        node.dispatcher.on_alone = leave_all
        node.on_lost = self._forget
        node.signalling.all_of_them = lambda: [g._node.signalling for g in reversed(_joined)]
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
        """Found a group and join it. Blocks until the leader answers (about 0.2 s).

        The leader is a small detached process, which lives until the last member leaves; with
        `"embedded"` it is this process. When it ends, another member leads. Without a `name` one is
        made up. GroupExists if a group of that name is alive, InvalidArgument for a name that
        is none, PermissionDenied for a runtime directory that is not safely ours.
        """
        if leader not in ("process", "embedded"):
            raise InvalidArgument(f'leader must be "process" or "embedded", not {leader!r}')
        if config is not None:
            _check_config(config)
        directory = GroupDir(runtime_dir, name or f"group-{os.getpid()}-{os.urandom(3).hex()}")
        with directory.room():
            return cls._found(directory, leader, config)

    @classmethod
    def _found(cls, directory: GroupDir, leader: str, config: GroupConfig | None) -> Group:
        if leader == "embedded":
            from libos_ipc.runtime.leader_process import found_embedded

            return cls(found_embedded(directory, config or _preset()))
        with LeaderStart(directory) as start:
            start.lead(config or _preset())
            from libos_ipc.runtime import joining  # loads ZeroMQ, while the leader does the same

            start.await_word()
        return cls(joining.join(directory, parent=0, may_lead=True, timeout=10.0))

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

        Blocks until the leader has answered, or the next one if it is just dying, at most
        `timeout` seconds (Timeout). With `may_lead=False` this process never leads the group,
        nor do children that it forks.
        NotJoined if there is no such group, LeaderLost if nobody leads it any more and nobody
        could, PermissionDenied if this user may not join.
        """
        name = name or os.environ.get(GROUP_VARIABLE)
        if not name:
            raise NotJoined(f"no group to join: give its name or a token, or set {GROUP_VARIABLE}")
        parent, group_id = 0, ""
        if isinstance(name, str) and Token.is_one(name):
            token = Token.parse(name)
            name, runtime_dir = token.name, runtime_dir or token.runtime_dir
            parent, group_id = token.issuer, token.group_id
        from libos_ipc.runtime import joining

        directory = GroupDir(runtime_dir, name)
        with directory.room():
            return cls(
                joining.join(
                    directory, parent=parent, may_lead=may_lead, timeout=timeout, group_id=group_id
                )
            )

    def token(self) -> str:
        """What another process of this user needs to join; that process counts as our child."""
        self._session.check_open()
        file = self._node.file
        return str(Token(file.name, file.id, self.vmid, str(self._node.directory.runtime_dir)))

    def environ(self) -> dict[str, str]:
        """`os.environ` with the token in it, for `subprocess`."""
        return {**os.environ, GROUP_VARIABLE: self.token()}

    def close(self) -> None:
        """Leave. What was sent arrives first (at most `linger` seconds); waits for no child.

        Everything this process owns in the group is given back before it returns. Calls that
        wait in other threads end with NotJoined. Signals that it handled go to another group that
        handles them, or to what the program had set before. A second time does nothing.
        """
        if self in _joined:
            try:
                self._node.signalling.drain()
            finally:  # a handler may raise
                self._leave()

    def _leave(self) -> None:
        if self._forget():
            self._node.leave()
            self._node.signalling.release()
            if not _joined:
                _stacks.close()

    def _forget(self) -> bool:
        """This process is to be no member, or a forked child could not become one. False if that
        was known already."""
        try:
            _joined.remove(self)
        except ValueError:
            return False
        return True

    @property
    def closed(self) -> bool:
        """Whether this process has left, or could not join after a fork."""
        return self._session.closed

    def __enter__(self) -> Group:
        self._session.check_open()
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
        from libos_ipc.core.vocabulary import State

        rows, _ = self._session.ask_leader(Code.GET_MEMBERS)
        return sorted(
            Member(vmid, pid, ppid, pgid, os_pid, State(state).name.lower(), joined_at)
            for vmid, pid, ppid, pgid, os_pid, state, joined_at in rows
            if state != State.DETACHED
        )

    # ---- processes

    def fork(self) -> int:
        """Fork: the child's pid in the group here, 0 in the child, which has joined by then.

        Forks this process for every group it is in, like `os.fork`. `wait` takes the child's
        exit status. NotJoined, and no fork, once this group is closed.
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


def _check_config(config: object) -> None:
    from libos_ipc.config import GroupConfig

    if not isinstance(config, GroupConfig):
        raise InvalidArgument(f"config must be a GroupConfig, not {type(config).__name__}")


def _preset() -> GroupConfig:
    from libos_ipc.config import GroupConfig

    return GroupConfig.from_environment()


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


def _install() -> None:
    """At the first group of a process: be called around forks and at its end."""
    _hooks.register()
    _stacks.open()
    _leave_with_multiprocessing()
    atexit.unregister(leave_all)
    atexit.register(leave_all)


def _leave_with_multiprocessing() -> None:
    """Leave at the end of multiprocessing's children too, which runs no `atexit`.

    Such a child forgets what was registered before it began, then calls what is registered for
    after a fork. A program that does not use multiprocessing is spared the import.
    """
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and util not in _prepared:
        _prepared.append(util)
        _leave_at_exit(util)
        util.register_after_fork(_hooks, lambda _: _leave_at_exit(util))


def _leave_at_exit(util: Any) -> None:
    util.Finalize(None, leave_all, exitpriority=-100)  # after it has joined its own children


_stacks = StackFile()
_hooks = ForkHooks(_nodes, _leave_with_multiprocessing, _stacks.reborn)
#: the module multiprocessing.util, once it has been told of us
_prepared: list[Any] = []


def _unpickle(token: str) -> Group:
    group_id = Token.parse(token).group_id
    for group in _joined:
        if group._node.file.id == group_id:
            return group
    return Group.join(token)
