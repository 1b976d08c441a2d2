"""The results as a table on the terminal and as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

COLUMNS = ("row", "what", "placement", "ours", "peer", "limit", "ratio", "target", "")
STYLES = {True: "green", False: "red", None: "yellow"}
LEGEND = (
    "Each series is median / 99th percentile. A ratio is one of medians: ours to the peer (≤), or "
    "the peer to ours (≥, times faster); to the limit where no peer is named. With a unit it is "
    "the time or memory added. In brackets: lowest and highest ratio of any single round."
)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def cells(line: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table, from a line of the JSON file."""
    return (
        line["row"],
        line["what"],
        line["placement"],
        _series(line["ours"]),
        _series(line["peer"], named=True),
        _series(line["limit"], named=True),
        _ratio(line),
        _target(line),
        line["verdict"],
    )


def failures(results: dict[str, Any]) -> list[str]:
    """What could not be measured, each once: a missing peer is named here and in its line."""
    found: dict[str, None] = {}
    for line in results["lines"]:
        for part in ("ours", "peer", "limit"):
            if line[part] and line[part].get("failure"):
                found[f"{line[part]['name']}: {line[part]['failure']}"] = None
    return [*found, *results["failures"]]


def notes(results: dict[str, Any]) -> list[str]:
    own = [note for line in results["lines"] for note in line["notes"]]
    return [*results["notes"], *own]


def show(results: dict[str, Any], console: Console) -> None:
    """Print the table, what it leaves out, and what could not be measured."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column, justify="left", overflow="fold")
    previous = None
    for line in results["lines"]:
        if previous not in (None, line["row"]):
            table.add_section()
        previous = line["row"]
        *plain, verdict = cells(line)
        style = "dim" if line["target"] is None else STYLES[line["met"]]
        table.add_row(*plain, Text(verdict, style=style))
    console.print(table)
    console.print(LEGEND, style="dim")
    for note in notes(results):
        console.print(note, style="dim", highlight=False)
    for failure in failures(results):
        console.print(Text(f"Not measured: {failure}", style="yellow"))


def write_json(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def verdicts(lines: Sequence[dict[str, Any]]) -> str:
    """How many targets are met, in words."""
    judged = [line["met"] for line in lines if line["target"] is not None]
    met, missed = judged.count(True), judged.count(False)
    return f"{met} met, {missed} not met, {len(judged) - met - missed} not measured"


def _series(part: dict[str, Any] | None, *, named: bool = False) -> str:
    if part is None:
        return "-"
    if "failure" in part:
        reason = part["failure"] if part["failure"].startswith("not installed") else "failed"
        return f"{part['name']}: {reason}"
    values = f"{number(part['p50'])} / {number(part['p99'])} {part['unit']}"
    return f"{part['name']}: {values}" if named else values


def _ratio(line: dict[str, Any]) -> str:
    if line["ratio"] is None:
        return "-"
    if line["comparison"] == "added":
        return f"{number(line['ratio'])} {line['ratio_unit']}"
    low, high = line["ratio_of_rounds"]
    return f"{number(line['ratio'])} ({number(low)} … {number(high)})"


def _target(line: dict[str, Any]) -> str:
    if line["target"] is None:
        return "-"
    sign = "≥" if line["comparison"] == "faster" else "≤"
    unit = f" {line['ratio_unit']}" if line["comparison"] == "added" else ""
    return f"{sign} {line['target']:g}{unit}".rstrip()
