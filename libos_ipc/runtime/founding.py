"""Starting the leader's process, as seen from the founder. Loads next to nothing itself.

It is a fresh interpreter rather than a fork of the founder: it shares no lock, thread or
descriptor with it, and imports only what a leader needs. Since that takes longer than all else,
it is started before anything is known but where the group is to be:

    founder                                    leader's process
    start the interpreter ──────────────────▶  load what a leader needs
    load and check the configuration
    the task ───────────────────────────────▶  take the directory, lead
    load what a member needs
    wait ◀────────────── the word: it leads, or what is wrong

It is started by way of an intermediate process that ends at once, so that it is nobody's child:
no `wait` of the founder's ever finds it. It ends by itself if no task comes, or an empty one, or
if the founder ends before it has joined. Task and word are a line each, whose end counts: whoever
was forked meanwhile, by another thread, may hold the founder's end of the socket open.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from libos_ipc.errors import LeaderLost, error_for

if TYPE_CHECKING:
    from libos_ipc.config import GroupConfig
    from libos_ipc.runtime.rundir import GroupDir

__all__ = ["LeaderStart"]

#: The directory that this package lies in.
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: What the new interpreter runs: fork away from its parent first, then become the leader. What it
#: loads stays for good: there is no garbage to be looked for meanwhile. And msgspec does without
#: typing_extensions, which loads `inspect`, where they are not to be had.
_BOOT = (
    "import os,sys,json,gc;"
    "os.fork() and os._exit(0);"
    "gc.disable();sys.modules['typing_extensions']=None;"
    "given=json.loads(sys.argv[1]);sys.path[:]=given['path'];"
    "from libos_ipc.runtime.leader_process import main;main(given)"
)


class LeaderStart:
    """A leader's process from its start until it leads: to be used in a `with` block.

    If the block ends before a task was given, there will be no group.
    """

    def __init__(self, directory: GroupDir) -> None:
        self._socket, theirs = socket.socketpair()
        self._given = False
        with _above_standard_streams(theirs) as theirs:
            try:
                self._intermediate = _start(directory, theirs.fileno())
            except BaseException:
                self._socket.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._socket:
            if not self._given:
                self._tell(b"")
        self._intermediate.wait()

    def lead(self, config: GroupConfig) -> None:
        """Have it lead a group of this configuration. Does not wait for it."""
        import msgspec

        self._given = True
        self._tell(msgspec.json.encode(config))

    def _tell(self, task: bytes) -> None:
        try:
            self._socket.sendall(task + b"\n", socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended: whoever waits for its word will see that

    def await_word(self) -> None:
        """Return when it leads, or raise what it met."""
        with self._socket.makefile("rb") as lines:
            try:
                word = lines.readline()
            except ConnectionResetError:
                word = b""
        if not word:
            raise LeaderLost(
                "the leader's process ended before it was ready; "
                f"try `{sys.executable} -c 'import libos_ipc.runtime.leader_process'`"
            )
        number, text = json.loads(word)
        if number:
            raise error_for(number, text)


def _above_standard_streams(theirs: socket.socket) -> socket.socket:
    """A process without standard streams has other things by their numbers, which in a new process
    are the streams again."""
    if theirs.fileno() > 2:
        return theirs
    with theirs:
        return socket.socket(fileno=fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3))


def _start(directory: GroupDir, fd: int) -> subprocess.Popen[bytes]:
    given = {
        # An editable install is found by a hook instead of by the path: name our home too.
        "path": [*map(os.path.abspath, sys.path), _HOME],
        "runtime_dir": directory.runtime_dir,
        "name": directory.name,
        "founder": os.getpid(),
        "founder_fd": fd,
    }
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(given)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(fd,),
        cwd="/",
        start_new_session=True,
    )
