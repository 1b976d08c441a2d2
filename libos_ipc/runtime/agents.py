"""Who waits: the number of the running thread or asyncio task."""

from __future__ import annotations

import sys
import threading

__all__ = ["current_agent"]


def current_agent() -> int:
    """The number of the running task, or else of the thread: of who cannot wait for itself.

    From 1 to 2**32-1, and no two that live at a time in a process have the same.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return id(task) >> 4 & 0x7FFFFFFF | 1 << 31
    return threading.get_native_id()
