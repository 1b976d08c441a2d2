"""Starting the leader's process, as seen from the founder. Loads next to nothing itself.

It is a fresh interpreter rather than a fork of the founder: it shares no lock, thread or
descriptor with it, and imports only what a leader needs. It is started by way of an
intermediate process that ends at once, so that it is nobody's child: no `wait` of the
founder's ever finds it. Through a pipe it says that it leads, or what is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import msgspec

from libos_ipc.config import GroupConfig
from libos_ipc.errors import LeaderLost, error_for
from libos_ipc.runtime.rundir import GroupDir

__all__ = ["start"]

#: The directory that this package lies in.
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: What the new interpreter runs: fork away from its parent first, then become the leader.
_BOOT = (
    "import os,sys,json;"
    "os.fork() and os._exit(0);"
    "given=json.loads(sys.argv[1]);sys.path[:]=given['path'];"
    "from libos_ipc.runtime.leader_process import main;main(given)"
)


def start(directory: GroupDir, config: GroupConfig) -> Callable[[], None]:
    """Start the leader of a new group. The result waits until it answers, and raises what it met.

    In between the caller may do what takes time: load what a member needs.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        given = {
            # An editable install is found by a hook instead of by the path: name our home too.
            "path": [*map(os.path.abspath, sys.path), _HOME],
            "runtime_dir": str(directory.runtime_dir),
            "name": directory.name,
            "config": msgspec.to_builtins(config),
            "founder": os.getpid(),
            "ready_fd": writing,
        }
        intermediate = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(given)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writing,),
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return lambda: _await_word(reading, intermediate)


def _await_word(reading: int, intermediate: subprocess.Popen[bytes]) -> None:
    intermediate.wait()
    with open(reading, "rb") as pipe:
        word = pipe.read()
    if not word:
        raise LeaderLost(
            "the leader's process ended before it was ready; "
            f"try `{sys.executable} -c 'import libos_ipc.runtime.leader_process'`"
        )
    number, text = json.loads(word)
    if number:
        raise error_for(number, text)
