"""What commands print: tables for people, JSON for programs.

A table on a terminal is cut to the terminal's width; anywhere else it is as wide as its contents,
so that nothing is lost to a pipe. Cells are shown as they are, never taken for markup; what
could make the terminal do things is shown as an escape.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["console", "make_table", "print_json", "print_table", "printable"]

#: Columns of what is no terminal.
UNBOUNDED = 100_000


def console(*, stderr: bool = False) -> Console:
    """The console of stdout or stderr."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else UNBOUNDED, highlight=False)


def make_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Rows under their heads (none if all are empty), numbers to the right.

    Where a terminal is too narrow, the last column is cut.
    """
    rows = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(heads))
    for head, *column in zip(heads, *rows, strict=True):
        numbers = all(isinstance(cell, int) for cell in column)
        width = max(cell_len(printable(str(cell))) for cell in (head, *column))
        table.add_column(
            head, justify="right" if numbers else "left", no_wrap=True, min_width=width
        )
    table.columns[-1].min_width = None
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    return table


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print such a table."""
    table = make_table(heads, rows)
    screen = console()
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as lines:
        screen.print(table)
    click.echo("\n".join(line.rstrip() for line in lines.get().splitlines()))


def print_json(value: object) -> None:
    """Print one JSON value."""
    click.echo(json.dumps(value, indent=2))


def printable(text: str) -> str:
    """`text` with an escape in the place of everything that is no printable character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
