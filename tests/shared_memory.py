"""Memory that two ends can share, as the library makes it and as it does not."""

from __future__ import annotations

import fcntl
import os

from libos_ipc._native import Shared

__all__ = ["memory"]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def memory(size: int, seals: int = _SEALS) -> Shared:
    """Mapped memory with these seals; its descriptor is closed."""
    fd = os.memfd_create("libos_ipc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return Shared(size, f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
