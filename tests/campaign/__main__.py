"""Acts until the time is over, or one of them again: see the package's head."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .act import Outcome, play
from .script import draw

#: Violations of an act that are shown.
SHOWN = 10


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="the first act's (default 0)")
    parser.add_argument("--act", type=int, help="this act only")
    parser.add_argument("--seconds", type=float, default=10.0, help="of an act (default 10)")
    given = parser.parse_args()
    begun = time.monotonic()
    total: Counter[str] = Counter()
    acts = failed = 0
    seed = given.seed if given.act is None else given.act
    while acts == 0 or (given.act is None and time.monotonic() - begun < given.minutes * 60):
        print(draw(seed), flush=True)
        outcome = play(draw(seed), given.seconds)
        total += outcome.counts
        acts += 1
        failed += bool(outcome.complaints)
        _show(outcome)
        seed += 1
    minutes = (time.monotonic() - begun) / 60
    print(f"{acts} acts in {minutes:.1f} min, {failed} with violations; {_summary(total)}")
    return 1 if failed else 0


def _show(outcome: Outcome) -> None:
    print(f"    {_summary(outcome.counts)}", flush=True)
    for complaint in outcome.complaints[:SHOWN]:
        print(f"    VIOLATION: {complaint}")
    if outcome.complaints:
        print(f"    {len(outcome.complaints)} in all; records: {outcome.records}", flush=True)


def _summary(counts: Counter[str]) -> str:
    named = {
        "processes": "hello",
        "killed": "killing",
        "leaders killed": "beheading",
        "messages": "got",
        "answers": "answered",
        "broadcasts": "told",
        "signals": "caught",
        "IDs": "id",
        "locks": "locked",
        "bytes locked": "bytes locked",
        "values": "return",
        "missed": "missed",
    }
    return ", ".join(f"{counts[kind]} {name}" for name, kind in named.items())


if __name__ == "__main__":
    sys.exit(main())
