"""Words for people: what runs in a process, when something was, how long it has been."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["command_of", "duration", "or_dash", "time_of"]


def command_of(os_pid: int) -> str:
    """The command line of a process; its name in brackets if it has none, "" if it is gone."""
    try:
        words = Path(f"/proc/{os_pid}/cmdline").read_bytes()
        if words:
            return os.fsdecode(words.rstrip(b"\0").replace(b"\0", b" "))
        return f"[{os.fsdecode(Path(f'/proc/{os_pid}/comm').read_bytes().rstrip())}]"
    except OSError:
        return ""


def time_of(seconds: float) -> str:
    """The local time, with the day unless that is today; a dash for none."""
    if not seconds:
        return "-"
    then = time.localtime(seconds)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def duration(seconds: float) -> str:
    """How long, in its two largest units."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}s"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def or_dash(value: object) -> object:
    """A dash in the place of nothing."""
    return "-" if value in (None, "") else value
