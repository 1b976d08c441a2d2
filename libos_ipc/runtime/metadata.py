"""A process's answers about itself, given in its worker while its main thread does as it likes.

Most could be read in /proc by whoever asks; they are answered to a process of another user, who
may not, and to another implementation of the protocol. Python stacks only the process itself
can tell.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Final

from libos_ipc import wire
from libos_ipc.core.codes import Code
from libos_ipc.core.counters import Counters
from libos_ipc.core.vocabulary import GetMeta
from libos_ipc.runtime.process_state import start_time
from libos_ipc.runtime.processes import KINDS, Usage, read_process
from libos_ipc.runtime.threads import is_quick

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["answer_meta", "python_stacks", "unpack_meta"]

_NAMES: Final = {number: name for name, number in KINDS.items()}
#: Stacks deeper than this are cut in the middle of nowhere: the innermost frames count.
_DEEPEST = 200


def answer_meta(session: Session, pid: int, asked: GetMeta) -> None:
    """Answer PID_GETMETA. In the worker, without any lock."""
    result, data = -errno.EINVAL, b""
    name = _NAMES.get(asked.what)
    if asked.pid != pid:
        result = -errno.ESRCH
    elif name is not None:
        try:
            data, result = _own(session, name), 0
        except OSError as error:
            result = -(error.errno or errno.EIO)
    with session.lock:
        if not session.closed:
            session.answer_own(asked.src, asked.seq, Code.PID_GETMETA, (len(data), result, data))


def _own(session: Session, name: str) -> bytes:
    if name == "counters":
        return " ".join(map(str, session.counters())).encode()
    if name == "stack":
        return python_stacks().encode("utf-8", "replace")[-wire.META_MAX_BYTES :]
    os_pid = os.getpid()
    found = read_process(os_pid, start_time(os_pid), name)
    if isinstance(found, Usage):
        return " ".join(map(repr, found)).encode()
    return found if isinstance(found, bytes) else wire.CRED.pack(*found)


def unpack_meta(name: str, data: bytes) -> bytes | tuple[int, int] | Usage | Counters:
    """What another process answered, as `read_process` would have given it."""
    if name == "cred":
        uid, gid = wire.CRED.unpack(data)
        return uid, gid
    if name == "usage":
        user, system, *numbers = data.decode().split()
        return Usage(float(user), float(system), *map(int, numbers))
    if name == "counters":
        return Counters(*map(int, data.split()))
    return data


def python_stacks() -> str:
    """The Python stacks of all threads of this process, the main thread's first."""
    threads = {thread.ident: thread for thread in threading.enumerate()}
    main = threading.main_thread().ident
    parts = []
    for ident, frame in sorted(sys._current_frames().items(), key=lambda item: item[0] != main):
        thread = threads.get(ident)
        name = "libos_ipc" if is_quick(frame) else thread.name if thread else "unknown"
        number = f", thread {thread.native_id}" if thread else ""
        # Looking up source lines may read files; a thread that has moved on meanwhile is shown
        # where it was.
        stack = traceback.extract_stack(frame, limit=_DEEPEST)
        parts.append(f"{name}{number}:\n{''.join(stack.format())}")
    return "\n".join(parts)
