"""The command: `python -m benchmarks`, see `--help`."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import docs, machine, placement, plot, report
from benchmarks.rounds import Effort
from benchmarks.rows import FAMILIES, Family

#: Columns of a report that goes to a file or a pipe.
WIDTH = 180
OUT = Path(__file__).parent / "out"


def main() -> int:
    options = _options()
    if options.list:
        for family in FAMILIES:
            print(f"{family.name:12} {family.rows:16} {family.what}")
        return 0
    if options.write_docs:
        return _write_docs(options.json)
    chosen = [family for family in FAMILIES if family.name in (options.only or [family.name])]
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    results = measure(chosen, Effort(options.quick), Console(stderr=True))
    report.show(results, console)
    report.write_json(results, options.json)
    picture = options.json.with_suffix(".png")
    trouble = plot.draw(results, picture)
    console.print(f"{report.verdicts(results['lines'])}; {results['seconds']:.0f} s")
    console.print(f"{options.json}, {trouble or picture}", highlight=False, soft_wrap=True)
    return 0


def measure(families: Sequence[Family], effort: Effort, progress: Console) -> dict[str, Any]:
    """Run `families` one after the other; the results as the JSON file has them."""
    started = time.monotonic()
    described = machine.description()
    lines: list[dict[str, Any]] = []
    failures: list[str] = []
    for family in families:
        progress.print(f"{family.name}: {family.what} …", highlight=False, style="dim")
        try:
            lines += [line.summary() for line in family.run(effort)]
        except Exception as error:
            progress.print(traceback.format_exc(), highlight=False, markup=False)
            failures.append(f"{family.name}: {type(error).__name__}: {error}")
    left_out = placement.left_out()
    return {
        "machine": described,
        "quick": effort.quick,
        "families": [family.name for family in families],
        "seconds": time.monotonic() - started,
        "notes": [left_out] if left_out else [],
        "failures": failures,
        "lines": lines,
    }


def _write_docs(source: Path) -> int:
    try:
        trouble = docs.fill(json.loads(source.read_text()))
    except (OSError, ValueError, docs.NoSectionError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print(f"{docs.PAGE} and {docs.README} filled from {source}; {trouble or docs.PICTURE}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.description = "Measure the library, its peers and what the machine allows."
    parser.add_argument(
        "--only",
        action="append",
        choices=[family.name for family in FAMILIES],
        metavar="NAME",
        help="measure this benchmark alone (see --list); may be given more than once",
    )
    parser.add_argument("--quick", action="store_true", help="few values: for trying things out")
    parser.add_argument(
        "--json",
        type=Path,
        default=OUT / "results.json",
        metavar="FILE",
        help="where results are written, and the plot beside it; what --write-docs reads",
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks there are")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="measure nothing: fill README.md and docs/performance.md from the JSON file",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
