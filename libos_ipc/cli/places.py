"""Which groups a command is about, as its options say: `--group` and `--runtime-dir`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from libos_ipc import Group, IpcError, LeaderLost, NotJoined, groups
from libos_ipc.cli.options import runtime_dir_option
from libos_ipc.cli.visit import visiting

__all__ = ["Place", "listing_place", "single_place"]

_Answer = TypeVar("_Answer")
_Command = Callable[..., int]


class Place(NamedTuple):
    """A group, or all that are alive in a runtime directory."""

    group: str | None
    runtime_dir: Path | None
    #: Whether the group was named on the command line, and not by the environment.
    explicit: bool

    def visit(self, *, only: bool = False) -> AbstractContextManager[Group]:
        """Be in the one group for the time of a `with`. A usage error if none was named, and it is
        not allowed to mean the `only` one that there is, or there are others."""
        name = self.group
        if not name:
            alive = groups(self.runtime_dir)
            if not only or len(alive) != 1:
                which = f"alive: {', '.join(alive)}" if alive else "no group is alive here"
                text = f"Missing option '--group' (env var: 'LIBOS_IPC_GROUP'); {which}"
                raise click.UsageError(text)
            name = alive[0]
        return visiting(name, self.runtime_dir)

    def ask(
        self, question: Callable[[Group], list[_Answer]]
    ) -> tuple[list[_Answer], list[IpcError]]:
        """Put a question to the group that was named, or else to all of them.

        What they answer, and what went wrong with those of all that did not. The environment's
        group does not count where a runtime directory was named.
        """
        if self.group and (self.explicit or not self.runtime_dir):
            with self.visit() as group:
                return question(group), []
        answers: list[_Answer] = []
        failures: list[IpcError] = []
        for name in groups(self.runtime_dir):
            try:
                with visiting(name, self.runtime_dir) as group:
                    answers += question(group)
            except (NotJoined, LeaderLost):
                continue  # it has ended meanwhile
            except IpcError as error:
                failures.append(error)
        return answers, failures


def listing_place(command: _Command) -> _Command:
    """`--group NAME` and `--runtime-dir DIR`, as `place`, for what can be asked of all groups."""
    return _place(command, "; by default all that are alive in the runtime directory")


def single_place(command: _Command) -> _Command:
    """The same for what concerns one group."""
    return _place(command, "")


def _place(command: _Command, default: str) -> _Command:
    group_option = click.option(
        "--group",
        metavar="NAME",
        envvar="LIBOS_IPC_GROUP",
        show_envvar=True,
        help=f"The group, by name or token{default}.",
    )

    @functools.wraps(command)
    def placed(*, group: str | None, runtime_dir: Path | None, **others: Any) -> int:
        source = click.get_current_context().get_parameter_source("group")
        explicit = source is click.core.ParameterSource.COMMANDLINE
        return command(place=Place(group, runtime_dir, explicit), **others)

    return group_option(runtime_dir_option(placed))
