"""Compile `limits.c` on the spot and describe its two contenders: blocking and spinning."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.placement import Placement
from benchmarks.rounds import Entry

HERE = Path(__file__).parent
OUT = HERE / "out"
SPINS = 1000


@functools.cache
def compiled() -> Path | str:
    """The compiled program, or why there is none."""
    compiler = os.environ.get("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        return f"no C compiler ({compiler})"
    OUT.mkdir(exist_ok=True)
    program = OUT / "limits"
    command = [*compiler.split(), "-O2", "-std=gnu11", "-Wall", "-Wextra"]
    command += ["-o", str(program), str(HERE / "limits.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return program if done.returncode == 0 else f"{compiler} failed: {done.stderr.strip()}"


def futex(placement: Placement, *, spinning: bool = False) -> Entry:
    """The futex exchange as a contender in `placement`."""
    name = f"C futex, spinning {SPINS}" if spinning else "C futex"
    program = compiled()
    if isinstance(program, str):
        return Entry(name, failure=program)
    spins = SPINS if spinning else 0
    cores = [-1 if core is None else core for core in (placement.asking, placement.answering)]
    return Entry(name, command=(str(program), *map(str, (spins, *cores))))
