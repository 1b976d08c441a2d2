"""Compile the limits on the spot and describe their contenders: C at both ends, or Python."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from benchmarks.placement import Placement
from benchmarks.rounds import Entry

HERE = Path(__file__).parent
OUT = HERE / "out"
SPINS = 1000


@functools.cache
def compiled(source: str, product: str, *flags: str) -> Path | str:
    """What is compiled of this file, or why there is nothing."""
    compiler = os.environ.get("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        return f"no C compiler ({compiler})"
    OUT.mkdir(exist_ok=True)
    command = [*compiler.split(), "-O2", "-std=gnu11", "-Wall", "-Wextra", *flags]
    command += ["-o", str(OUT / product), str(HERE / source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return OUT / product if done.returncode == 0 else f"{compiler} failed: {done.stderr.strip()}"


def futex(placement: Placement, *, spinning: bool = False) -> Entry:
    """The futex exchange as a contender in `placement`."""
    name = f"C futex, spinning {SPINS}" if spinning else "C futex"
    program = compiled("limits.c", "limits")
    if isinstance(program, str):
        return Entry(name, failure=program)
    spins = SPINS if spinning else 0
    cores = [-1 if core is None else core for core in (placement.asking, placement.answering)]
    return Entry(name, command=(str(program), *map(str, (spins, *cores))))


def python_futex(placement: Placement) -> Entry:
    """The same with a Python program at either end, which sleeps at once."""
    name = "Python on a futex"
    product = f"python_futex{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = f"-I{sysconfig.get_path('include')}"
    extension = compiled("python_futex.c", product, "-shared", "-fPIC", include)
    if isinstance(extension, str):
        return Entry(name, failure=extension)
    return Entry.module(name, "python_futex", extension=str(extension), **placement.setup())
