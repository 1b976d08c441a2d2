"""What commands say when something is wrong: a line on stderr."""

from __future__ import annotations

import os
from collections.abc import Iterable

import click

__all__ = ["complain", "complain_of"]


def complain(text: str) -> int:
    """Say what is wrong, in one line; the exit status for that."""
    click.echo(f"libos-ipc: {text.splitlines()[0]}", err=True)
    return 1


def complain_of(errors: Iterable[OSError]) -> int:
    """Say each of these; the exit status for that, 0 if there are none."""
    return max((complain(_what(error)) for error in errors), default=0)


def _what(error: OSError) -> str:
    text = error.strerror or str(error)
    return text if error.filename is None else f"{os.fsdecode(error.filename)}: {text}"
