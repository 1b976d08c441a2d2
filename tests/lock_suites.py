"""The published test suites of `filelock` and `fasteners`, run with the group's locks.

    python -m tests.lock_suites [DIR]

It makes a virtual environment in DIR (by default a new temporary directory, removed afterwards),
installs this project and, from their source distributions, the two packages, with pip and so over
the network. Each suite is run twice: as it is, and with `libos_ipc.fcntl` in the place of `fcntl`
in every Python process of the run, all of them in one group. Every test must end alike. It says
what it did and each test that differs; exit status 0 if none does, else 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
SUITES = {"filelock": "3.16.1", "fasteners": "0.19"}
#: What the suites need beside pytest.
NEEDED = [
    "pytest-asyncio",
    "pytest-mock",
    "pytest-timeout",
    "virtualenv",
    "diskcache",
    "more-itertools",
]
#: Seconds for one test. Some lock twenty thousand times.
PER_TEST_S = 300

#: Runs at every start of Python: ours is `fcntl`, and this process is in the group of the run.
SITE = """
import os, sys
import libos_ipc
import libos_ipc.fcntl

sys.modules["fcntl"] = libos_ipc.fcntl
if "LIBOS_IPC_GROUP" in os.environ:
    libos_ipc.Group.join()
else:
    os.environ.update(libos_ipc.Group.create("suite").environ())
"""


def call(*words: object, **environ: str) -> None:
    """Run a command quietly; what it says comes only with its failure."""
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stdout}")


def prepare(directory: Path) -> Path:
    """The interpreter of an environment with all that is needed."""
    print(f"an environment in {directory}, and into it what the suites need", flush=True)
    venv.create(directory / "venv", with_pip=True)
    python = directory / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[test]", *NEEDED)
    return python


def download(python: Path, directory: Path, name: str, version: str) -> Path:
    """The unpacked source distribution, after installing what is in it."""
    wanted = f"{name}=={version}"
    print(f"{wanted}: its source distribution, downloaded and installed", flush=True)
    target = directory / "sources" / name
    pip = (python, "-m", "pip")
    call(*pip, "download", "-q", "--no-deps", "--no-binary", name, wanted, "-d", target)
    (archive,) = target.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(target, filter="data")
    (source,) = (path for path in target.iterdir() if path.is_dir())
    call(*pip, "install", "-q", "--no-deps", "--no-binary", name, wanted)
    return source


def run(python: Path, source: Path, directory: Path, *, ours: bool) -> dict[str, str]:
    """How each test of a suite ended."""
    report = directory / f"{source.name}-{'ours' if ours else 'kernel'}.xml"
    environ = {name: value for name, value in os.environ.items() if "LIBOS_IPC" not in name}
    if ours:
        site = directory / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(SITE)
        environ["PYTHONPATH"] = str(site)
        environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="li-", dir=directory)
    began = time.monotonic()
    words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    words += ["--timeout", str(PER_TEST_S), f"--junitxml={report}"]
    subprocess.run(words, cwd=source, env=environ, stdout=subprocess.DEVNULL, check=False)
    if not report.exists():
        sys.exit(f"the run of {source.name} came to no end: {' '.join(map(str, words))}")
    ends = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        ends[f"{case.get('classname')}::{case.get('name')}"] = kinds[0] if kinds else "passed"
    counts = ", ".join(
        f"{list(ends.values()).count(end)} {end}" for end in sorted(set(ends.values()))
    )
    whose = "the group's locks" if ours else "the kernel's locks"
    print(f"{source.name} with {whose}: {counts} ({time.monotonic() - began:.0f} s)", flush=True)
    return ends


def main(directory: Path) -> int:
    """All of it; the exit status."""
    directory.mkdir(parents=True, exist_ok=True)
    python = prepare(directory)
    differing = 0
    for name, version in SUITES.items():
        source = download(python, directory, name, version)
        kernels = run(python, source, directory, ours=False)
        ours = run(python, source, directory, ours=True)
        for test in sorted(kernels.keys() | ours.keys()):
            before, after = kernels.get(test, "not run"), ours.get(test, "not run")
            if before != after:
                differing += 1
                print(f"  {test}: {before} with the kernel's locks, {after} with the group's")
    print(f"{differing} tests end differently" if differing else "every test ends alike")
    return 1 if differing else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1]).resolve()))
    made = Path(tempfile.mkdtemp(prefix="li-suites-"))
    try:
        sys.exit(main(made))
    finally:
        shutil.rmtree(made, ignore_errors=True)
