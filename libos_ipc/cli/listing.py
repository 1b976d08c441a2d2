"""Commands that list something: of a group or of all, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from libos_ipc import Group
from libos_ipc.cli.output import print_json, print_table
from libos_ipc.cli.places import Place

__all__ = ["Listing", "Row"]

#: What JSON shows of one thing.
Row = Mapping[str, Any]


class Listing(NamedTuple):
    """What is listed, and how it is shown."""

    #: The heads of the table.
    heads: Sequence[str]
    #: The cells of a row of it.
    cells: Callable[[Row], Sequence[object]]
    #: What is said instead of a table without rows.
    nothing: str

    def show(self, place: Place, rows_of: Callable[[Group], list[Row]], as_json: bool) -> int:
        """Ask for the rows and print them; the exit status. Raises the first failure after that."""
        rows, failures = place.ask(rows_of)
        self.print(rows, as_json)
        if failures:
            raise failures[0]
        return 0

    def print(self, rows: list[Row], as_json: bool) -> None:
        """Print these rows."""
        if as_json:
            print_json(rows)
        elif rows:
            print_table(self.heads, [self.cells(row) for row in rows])
        else:
            click.echo(self.nothing)
