"""`libos-ipc run`: a command inside a group.

Who runs `libos-ipc run` should see no difference to the command itself: its exit status, its
death by a signal, and signals sent to us reach it. All of them are waited for in one place, by
`sigwaitinfo`, which also tells where a signal comes from: one from the kernel, as after Ctrl-C, the
terminal has sent to the command as well, and forwarding it would make two.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import click

from libos_ipc import Group, GroupExists, LeaderLost, NotJoined
from libos_ipc.cli.options import runtime_dir_option
from libos_ipc.cli.output import printable
from libos_ipc.tokens import Token

__all__ = ["command"]

#: Signals that are the command's business rather than ours.
FORWARDED = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)
#: Signals that Python ignores, and that a new program must find as they usually are.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
#: `si_code` of a signal that the kernel itself has sent.
SI_KERNEL = 0x80
#: Seconds for a group that somebody else is just founding.
FOUNDING_S = 10.0

NOT_FOUND, NOT_EXECUTABLE = 127, 126


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--group", metavar="NAME", help="Join this group if it is alive, found it if it is not."
)
@runtime_dir_option
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(group: str | None, runtime_dir: Path | None, words: tuple[str, ...]) -> int:
    """Run COMMAND in a group, old or new.

    Group.join() in COMMAND, or in what it starts, joins the group, which is a new one without
    --group. Signals sent to this process go on to COMMAND. The
    exit status is that of COMMAND, or 128 plus the number of the signal that ended it; 127 if
    there is no such command, 126 if it cannot be executed.
    """
    # Threads inherit what is blocked: to be waited for, a signal must be blocked in all of them.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    former = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    with _member(group, runtime_dir) as joined:
        for sig in FORWARDED & signal.sigpending():
            return int(128 + sig)
        try:
            pid = os.posix_spawnp(
                words[0], words, joined.environ(), setsigmask=former, setsigdef=IGNORED_BY_PYTHON
            )
        except OSError as error:
            found = error.errno not in (errno.ENOENT, errno.ENOTDIR)
            what = os.strerror(error.errno or errno.ENOEXEC) if found else "command not found"
            click.echo(f"libos-ipc: {printable(words[0])}: {what}", err=True)
            return NOT_EXECUTABLE if found else NOT_FOUND
        return _attend(pid)


def _attend(pid: int) -> int:
    """Pass signals on to a child until it ends; its exit status as a shell would give it."""
    while True:
        info = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != SI_KERNEL:
                os.kill(pid, info.si_signo)
            continue
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _member(name: str | None, runtime_dir: Path | None) -> Group:
    """Join the group, or found it: whichever can be done."""
    if name is None:
        return Group.create(runtime_dir=runtime_dir)
    deadline = time.monotonic() + FOUNDING_S
    while True:
        try:
            return Group.join(name, runtime_dir=runtime_dir)
        except (NotJoined, LeaderLost):
            if Token.is_one(name):
                raise
        try:
            return Group.create(name, runtime_dir=runtime_dir)
        except GroupExists:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # somebody is founding it: join once they have
