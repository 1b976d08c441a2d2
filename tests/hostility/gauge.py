"""What a process takes of the machine, as the kernel counts it."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["Gauge", "look_at"]


class Gauge(NamedTuple):
    """`private` is memory of its own, `shared` what it has mapped of others', in KiB."""

    private: int
    shared: int
    descriptors: int
    threads: int

    def growth(self, since: Gauge) -> Gauge:
        """What has been added."""
        return Gauge(*(now - then for now, then in zip(self, since, strict=True)))


def look_at(os_pid: int) -> Gauge:
    """A process's numbers now. FileNotFoundError if it is gone."""
    fields = {}
    with open(f"/proc/{os_pid}/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            fields[name] = value.split()
    if "RssAnon" not in fields:  # it has exited
        raise FileNotFoundError(os_pid)
    return Gauge(
        int(fields["RssAnon"][0]),
        int(fields["RssShmem"][0]),
        len(os.listdir(f"/proc/{os_pid}/fd")),
        int(fields["Threads"][0]),
    )
