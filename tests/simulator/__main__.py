"""Many seeds, or one of them event by event: see the package's head."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from .scenario import run

#: Lines of the trace that a failure shows.
TAIL = 60
#: Seeds that one job takes at a time.
CHUNK = 50


def failure(seed: int, actions: int | None = None) -> str | None:
    """Run one seed: what went wrong and what led to it, None if nothing."""
    try:
        run(seed, actions)
    except Exception as error:
        world = getattr(error, "world", None)
        tail = [] if world is None else world.lines(TAIL)
        steps = "" if actions is None else f" --steps {actions}"
        return "\n".join(
            [
                *tail,
                f"seed {seed}: {type(error).__name__}: {error}",
                f"again: python -m tests.simulator --seed {seed}{steps} --trace",
            ]
        )
    return None


def failures(seeds: range, actions: int | None = None) -> list[str]:
    """What went wrong in these seeds."""
    return [text for seed in seeds if (text := failure(seed, actions)) is not None]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--steps", type=int, help="actions per seed, instead of a random number")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print all that happens (with --seed)")
    given = parser.parse_args()
    if given.seed is not None:
        return _one(given.seed, given.steps, given.trace)
    begun = time.monotonic()
    end = given.start + given.seeds
    chunks = [range(at, min(at + CHUNK, end)) for at in range(given.start, end, CHUNK)]
    failed = 0
    with ProcessPoolExecutor(given.jobs) as pool:
        work = map if given.jobs == 1 else pool.map
        for texts in work(failures, chunks, [given.steps] * len(chunks)):
            failed += len(texts)
            for text in texts:
                print(text, end="\n\n", flush=True)
    took = time.monotonic() - begun
    print(
        f"{given.seeds} seeds, {failed} failed, {took:.1f} s, {given.seeds / took:.0f} per second"
    )
    return 1 if failed else 0


def _one(seed: int, actions: int | None, trace: bool) -> int:
    try:
        world = run(seed, actions)
    except Exception as error:
        there = getattr(error, "world", None)
        if there is not None and trace:
            print("\n".join(there.lines()))
        print(failure(seed, actions))
        if trace:
            raise
        return 1
    if trace:
        print("\n".join(world.lines()))
    print(f"seed {seed}: {world.steps} steps, {world.now:.3f} s, trace {world.trace_hash()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
