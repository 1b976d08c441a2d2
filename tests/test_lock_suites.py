"""Programs that were written for `fcntl` run on ours, in every process that they start.

Whole published suites are run by `python -m tests.lock_suites`, which needs the network. What is
tested here is the same arrangement, with a program that does what such libraries do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lock_suites

#: As a library of file locks does it: non-blocking attempts, in processes that it starts itself,
#: each of which closes without unlocking.
PROGRAM = """
import contextlib, fcntl, os, subprocess, sys, time

@contextlib.contextmanager
def locked(path):
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            os.close(fd)
            time.sleep(0.001)
    try:
        yield
    finally:
        os.close(fd)

if len(sys.argv) == 2:
    words = [sys.executable, __file__, sys.argv[1], "child"]
    children = [subprocess.Popen(words) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    with open(sys.argv[1] + ".count") as file:
        print(file.read(), fcntl.__name__)
else:
    for _ in range(20):
        with locked(sys.argv[1]):
            with open(sys.argv[1] + ".count", "a+") as file:
                file.seek(0)
                count = int(file.read() or 0)
                file.truncate(0)
                file.write(str(count + 1))
"""


def test_a_program_and_the_processes_that_it_starts(runtime_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(lock_suites.SITE)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program), str(tmp_path / "lock")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "60 libos_ipc.fcntl\n"
