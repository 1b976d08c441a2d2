"""Sieges of each kind: see the package's head."""

from __future__ import annotations

import argparse
import math
import sys

from .kinds import KINDS
from .siege import Outcome, besiege


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostility", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="misdeeds of each kind")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of each kind at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=sorted(KINDS), help="these kinds")
    parser.add_argument("--transport", default="native", choices=("native", "zmq", "auto"))
    parser.add_argument("--leader", default="process", choices=("process", "embedded"))
    given = parser.parse_args()
    failed = 0
    for name in given.only or KINDS:
        kind, most_s = KINDS[name], given.minutes * 60
        outcome = besiege(kind, given.count, given.seed, given.transport, given.leader, most_s)
        failed += bool(outcome.complaints)
        _show(outcome)
    return 1 if failed else 0


def _show(outcome: Outcome) -> None:
    grown = "; ".join(
        f"{name} {growth.private:+} KiB, {growth.descriptors:+} fds, {growth.threads:+} threads"
        for name, growth in outcome.growth.items()
    )
    print(
        f"{outcome.kind:14} {outcome.sent:9} in {outcome.seconds:6.1f} s; the victim noted "
        f"{outcome.noted}, refused {outcome.refused}; {grown}; "
        f"bystanders {outcome.deeds} deeds, the longest {outcome.worst_s:.2f} s",
        flush=True,
    )
    for complaint in outcome.complaints:
        print(f"    VIOLATION: {complaint}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
