"""The part of `Group` that signals processes, threads and process groups by the group's IDs."""

from __future__ import annotations

import errno
import os
import signal
import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from libos_ipc.core.codes import LEADER, Code
from libos_ipc.core.signals import LAST_SIGNAL, Kind, may_signal
from libos_ipc.core.vocabulary import SignalInfo
from libos_ipc.errors import InvalidArgument, InvalidRange, IpcError, PeerDied, Timeout, error_for
from libos_ipc.runtime import process_state, processes
from libos_ipc.runtime.signalling import LOOK_SIGNAL, Handler

if TYPE_CHECKING:
    from libos_ipc.ids import Ids
    from libos_ipc.runtime.node import Node

__all__ = ["ReceivedSignal", "SignalInfo", "Signals"]

_THREAD, _PROCESS, _GROUP, _ALL = range(4)
#: The kernel's, the C library's and this library's own.
_RESERVED = {0, signal.SIGKILL, signal.SIGSTOP, 32, 33, processes.STACK_SIGNAL, LOOK_SIGNAL}


class ReceivedSignal(int):
    """The number of a signal that `sigwait` took, with its `info`."""

    info: SignalInfo

    def __new__(cls, sig: int, info: SignalInfo) -> ReceivedSignal:
        received = super().__new__(cls, sig)
        received.info = info
        return received


class _Target(NamedTuple):
    """What the leader knows of an ID."""

    result: int
    vmid: int
    pid: int
    os_pid: int
    start_time: int
    uid: int
    state: int
    native: int  #: number in the kernel, of an ID that names a thread
    caught: int

    def catches(self, sig: int) -> bool:
        """Whether this number goes as a message: caught, or of a process not yet seen."""
        return bool(self.caught >> sig & 1) or not self.os_pid


class _ThreadId:
    """The ID of a thread; given back when the thread ends and drops it."""

    def __init__(self, group: Signals, tid: int) -> None:
        self.tid = tid
        self.vmid = group._node.identity.vmid
        self._group = weakref.ref(group)

    def __del__(self) -> None:
        group = self._group()
        if group is None or group._node.identity.vmid != self.vmid:
            return  # the group is gone, or this is a fork's copy of what the parent's thread had
        try:
            group._forget_thread(self.tid)
        except IpcError:
            pass  # closed meanwhile: all IDs are given back


class Signals:
    """The part of `Group` that signals."""

    _node: Node
    ids: Ids

    @property
    def pid(self) -> int:
        """This process's ID in the group."""
        raise NotImplementedError

    @property
    def pgid(self) -> int:
        """The ID of our process group."""
        raise NotImplementedError

    # ---- sending

    def kill(self, pid: int, sig: int) -> None:
        """Send a signal to the process `pid`; with 0, only ask whether that could be done.

        If the process handles this number with `group.signal`, the handler runs there with who
        sent it; otherwise it is the kernel's signal, with all that belongs to it. Returns when it
        is on its way. PeerDied (a ProcessLookupError) if there is no such process, also no
        zombie; PermissionDenied for another user's; InvalidRange for a number that is none;
        WouldBlock if thousands before it have not been taken up, as by one that is stopped.
        """
        sig, pid = _number(sig), _id(pid, "kill")
        if pid == self.pid:
            self._signal_self(sig, _PROCESS)
            return
        target = self._look_up(pid)
        if target.result:
            self._signal_gone(target, pid)
        elif target.catches(sig) and not self._wakes(target, sig):
            self._send_signal(target, target.pid, sig, _PROCESS)
        else:
            known = target.os_pid, target.start_time, sig
            _by_kernel(f"pid {pid}", processes.signal_process, *known)

    def tkill(self, pid: int, tid: int, sig: int) -> None:
        """Send a signal to one thread of the process `pid`: its main thread, whose ID is the pid,
        or one that has called `register_thread`. As `kill` otherwise; a handler of the group runs
        in the main thread all the same."""
        sig, pid, tid = _number(sig), _id(pid, "tkill"), _id(tid, "tkill")
        target = self._look_up(tid)
        if target.result or target.pid != pid:
            raise PeerDied(f"process {pid} has no thread {tid} that was registered")
        if target.vmid == self._node.identity.vmid and target.catches(sig):
            self._signal_self(sig, _THREAD)
        elif target.catches(sig) and not self._wakes(target, sig):
            self._send_signal(target, tid, sig, _THREAD)
        else:
            thread = target.native or target.os_pid
            known = target.os_pid, target.start_time, thread, sig
            _by_kernel(f"thread {tid} of pid {pid}", processes.signal_thread, *known)

    def killpg(self, pgid: int, sig: int) -> None:
        """Send a signal to every process of a process group; 0 is our own. The leader relays it.
        PeerDied if nobody is in the group, PermissionDenied if all are another user's."""
        self._relay(_id(pgid or self.pgid, "killpg"), _number(sig), _GROUP)

    def kill_all(self, sig: int) -> None:
        """Send a signal to every member but ourselves. The leader relays it. PeerDied if there is
        nobody else, PermissionDenied if all are another user's."""
        self._relay(0, _number(sig), _ALL)

    def _relay(self, id: int, sig: int, kind: int) -> None:
        (result,) = self._node.session.ask_leader(Code.PID_KILL, self.pid, 0, id, sig, kind)
        if result:
            what = f"process group {id}" if kind == _GROUP else "any other member"
            raise error_for(-result, f"signal {sig} to {what}: {_reason(-result)}")

    def _look_up(self, id: int) -> _Target:
        return _Target(*self._node.session.ask_leader(Code.GET_PROCESS, id))

    def _signal_gone(self, target: _Target, pid: int) -> None:
        what = f"pid {pid}"
        if target.os_pid and process_state.is_zombie(target.os_pid, target.start_time):
            _permit(target, what)
        elif not self._is_our_zombie(pid):
            raise PeerDied(f"{what} names no process of the group")

    def _is_our_zombie(self, pid: int) -> bool:
        """Whether it is a child that ended before it could say hello to the leader."""
        row = self._node.children.rows.get(pid)
        return row is not None and process_state.is_our_zombie(row.os_pid or row.announced())

    def _send_signal(self, target: _Target, id: int, sig: int, kind: int) -> None:
        """By way of the leader: so it arrives even if the target is stopped, and we are gone."""
        _permit(target, f"pid {target.pid}")
        if sig:
            fields = (self.pid, target.pid, id, sig, kind)
            (result,) = self._node.session.ask_leader(Code.PID_KILL, *fields)
            if result:
                raise error_for(-result, f"signal {sig} to pid {target.pid}: {_reason(-result)}")

    def _wakes(self, target: _Target, sig: int) -> bool:
        """Whether only the kernel can do it: continue a process that is stopped."""
        stopped = sig == signal.SIGCONT and target.os_pid
        return bool(stopped) and process_state.is_stopped(target.os_pid, target.start_time)

    def _signal_self(self, sig: int, kind: int) -> None:
        signalling = self._node.signalling
        self._node.session.check_open()
        if not sig:
            return
        if sig in signalling.handlers or sig in signalling.held:
            info = SignalInfo(self.pid, os.getuid(), Kind[kind])
            signalling.came(sig, info)
        else:
            os.kill(os.getpid(), sig)

    # ---- process groups and threads

    def setpgid(self, pid: int, pgid: int) -> None:
        """Put a process, ourselves (or 0) or a child of ours, into a process group: one that there
        is, or, with its own pid or 0, a new one. PeerDied for other processes, PermissionDenied if
        there is no such group."""
        if pid:
            _id(pid, "setpgid")
        if pgid:
            _id(pgid, "setpgid")
        (result,) = self._node.session.ask_leader(Code.SET_PGID, pid, pgid)
        if result == -errno.EPERM:
            raise error_for(errno.EPERM, f"there is no process group {pgid}")
        if result:
            raise error_for(-result, f"process {pid} is neither this one nor a child of it")

    def register_thread(self) -> int:
        """Give the calling thread an ID, for `tkill` to reach it; the main thread's is the pid.

        The ID is given back when the thread ends. A second call returns the same.
        """
        if threading.current_thread() is threading.main_thread():
            return self.pid
        known: _ThreadId | None = getattr(self._node.threads, "id", None)
        if known is not None and known.vmid == self._node.identity.vmid:
            return known.tid
        tid = self.ids.new()
        session = self._node.session
        (result,) = session.ask_leader(Code.SET_THREAD, tid, threading.get_native_id())
        assert result == 0, result
        self._node.threads.id = _ThreadId(self, tid)
        return tid

    def _forget_thread(self, tid: int) -> None:
        session = self._node.session
        session.send(LEADER, Code.SET_THREAD, (tid, 0))
        self.ids.release(tid)

    # ---- receiving

    def signal(self, sig: int, handler: Handler | signal.Handlers) -> Any:
        """Handle a signal with `handler(sig, SignalInfo(sender, uid, type))`; the former handler.

        Like `signal.signal`, for the main thread, where handlers run, between two steps of the
        program; what waits there goes on afterwards, or ends with what the handler raises. It also
        handles what comes by way of the kernel, with `info.type == "kernel"`. A handler may call
        the group. `SIG_DFL` and `SIG_IGN` give the number back to the kernel. Standard signals
        merge while one waits, real-time signals are all handled, in order. Forked children
        inherit it.
        """
        sig = _number(sig)
        if sig in _RESERVED:
            raise InvalidRange(f"signal {sig} cannot be handled: the kernel or the library has it")
        if threading.current_thread() is not threading.main_thread():
            raise InvalidArgument("handlers can be set in the main thread only, where they run")
        node = self._node
        node.session.check_open()
        if handler in (signal.SIG_DFL, signal.SIG_IGN):
            former = node.signalling.uninstall(sig, handler)
        elif callable(handler):
            former = node.signalling.install(sig, handler)
        else:
            raise InvalidArgument(f"{handler!r} is no handler: give a function, SIG_DFL or SIG_IGN")
        self._tell_caught()
        return former

    def sigwait(self, sigset: Iterable[int], timeout: float | None = None) -> ReceivedSignal:
        """Wait for a signal of `sigset` from a member and take it, instead of any handler.

        Gives its number, with `.info`. From the first time a number is waited for, it is held
        back when it comes while nobody waits, as if blocked, until `signal` gives it a handler or
        an action. Timeout if none comes in time. Any thread.
        """
        sigs = frozenset(_number(sig) for sig in sigset)
        if not sigs or sigs & {0, signal.SIGKILL, signal.SIGSTOP}:
            raise InvalidRange(f"{sorted(sigs)} cannot be waited for")
        node = self._node
        signalling = node.signalling
        fresh = sigs - signalling.handlers.keys() - signalling.held
        if fresh:
            signalling.hold(fresh)
            self._tell_caught()
        found = signalling.wait(sigs, timeout)
        if found is None:
            raise Timeout(f"none of the signals {sorted(sigs)} came within {timeout} s")
        return ReceivedSignal(*found)

    def _tell_caught(self) -> None:
        self._node.session.ask_leader(Code.SET_CAUGHT, self._node.signalling.caught())


def _number(sig: int) -> int:
    if not isinstance(sig, int) or not 0 <= sig <= LAST_SIGNAL:
        raise InvalidRange(f"{sig!r} is no signal: they are 1 … {LAST_SIGNAL}, and 0 only asks")
    return int(sig)


def _id(id: int, call: str) -> int:
    if not isinstance(id, int) or not 1 <= id < 2**32:
        hint = "; killpg and kill_all reach many" if call == "kill" else ""
        raise InvalidRange(f"{id!r} is no ID for {call}{hint}")
    return id


def _permit(target: _Target, what: str) -> None:
    if not may_signal(os.getuid(), target.uid):
        raise error_for(errno.EPERM, f"{what} is a process of user {target.uid}")


def _reason(number: int) -> str:
    return {
        errno.ESRCH: "there is no such process",
        errno.EPERM: "all of them are another user's",
        errno.EAGAIN: "as many as can wait have not been taken up; is it stopped?",
    }.get(number, os.strerror(number))


def _by_kernel(what: str, send: Any, *arguments: int) -> None:
    who = f"{what} (OS process {arguments[0]})"
    try:
        send(*arguments)
    except ProcessLookupError:
        raise PeerDied(f"{who} has just ended") from None
    except PermissionError:
        raise error_for(errno.EPERM, f"{who} is another user's") from None
