"""What the numbers were measured on: machine, kernel, interpreter, versions, load."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "libos-ipc",
    "pyzmq",
    "msgspec",
    "rpyc",
    "filelock",
    "portalocker",
    "fasteners",
    "matplotlib",
)


def description() -> dict[str, str]:
    """Names and values, in the order in which they are shown."""
    usable = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{_processor()}, {usable} usable cores" if usable > 1 else _processor(),
        "virtual": _virtual(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(_versions()),
        "load": f"{load:.2f} before the start",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _virtual() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    return "virtual machine" if "hypervisor" in flags else "no hypervisor reported"


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    try:
        import zmq

        found.append(f"libzmq {zmq.zmq_version()}")
    except ModuleNotFoundError:
        pass
    return found
