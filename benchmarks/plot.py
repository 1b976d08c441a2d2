"""The picture: for every target, how far the measurement lies on its good or its bad side."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Any

MET, MISSED = "#2a7f62", "#c1440e"
SMALLEST = 1e-2
#: Characters of a label: the bars want room, too.
LONGEST = 90


def margin(line: dict[str, Any]) -> float | None:
    """How many times better than its target a line is; below 1 it misses it."""
    ratio, target = line["ratio"], line["target"]
    if ratio is None or not target:
        return None
    if line["comparison"] == "faster":
        return float(ratio / target)
    return float(target / max(ratio, target * SMALLEST))


def draw(results: dict[str, Any], path: Path) -> str | None:
    """Write the picture to `path`; or why there is none."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return "no plot: matplotlib is not installed"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    judged = [(line, value) for line in results["lines"] if (value := margin(line)) is not None]
    if not judged:
        return "no plot: nothing to compare was measured"
    figure, axes = pyplot.subplots(figsize=(13, 1.2 + 0.22 * len(judged)), layout="constrained")
    values = [value for _, value in judged]
    colours = [MET if line["met"] else MISSED for line, _ in judged]
    axes.barh(range(len(judged)), [value - 1 for value in values], left=1, color=colours)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(judged)), [_label(line) for line, _ in judged], fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    figure.suptitle("libos_ipc: measured against its targets", fontsize=11)
    figure.supxlabel("times better than the target (left of 1: not met)", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return None


def _label(line: dict[str, Any]) -> str:
    reference = line["peer"] or line["limit"]
    what = f"{line['row']}  {line['what']}"
    if reference and not what.endswith(f" vs {reference['name']}"):
        what += f" vs {reference['name']}"
    return f"{shorten(what, LONGEST, placeholder=' …')} ({line['placement']})"
