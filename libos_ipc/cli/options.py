"""Options that several commands have, spelt the same in all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["ID", "json_option", "runtime_dir_option"]

#: An ID of a group, such as a pid.
ID = click.IntRange(1, 2**32 - 1)

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """`--json`, as `as_json`."""
    text = "Print JSON instead of a table."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def runtime_dir_option(command: _Command) -> _Command:
    """`--runtime-dir DIR`, as `runtime_dir`: a Path, or None for the default."""
    return click.option(
        "--runtime-dir",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where groups live; by default $XDG_RUNTIME_DIR/libos_ipc, else in /dev/shm.",
    )(command)
