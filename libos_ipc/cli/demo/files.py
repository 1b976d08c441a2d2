"""The files of the demonstration, and how their words are counted.

A word is what stands between ASCII whitespace. Files are read as bytes, so that every file has
a number of words, whatever is in it, and the same one whoever counts.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

__all__ = ["UNREADABLE", "count", "find", "standard_library"]

#: The count of a file that cannot be read.
UNREADABLE = -1

_BLOCK = 1 << 20
_SPACE = b" \t\n\r\x0b\f"
#: Directories of the standard library that hold what was installed beside it.
_NOT_STANDARD = frozenset({"site-packages", "dist-packages", "__pycache__"})


def find(path: Path) -> list[Path]:
    """The file `path`, or all files below the directory `path`, in a fixed order.

    Symbolic links, devices and what else is no regular file are left out, and so are
    directories that cannot be listed.
    """
    if not path.is_dir():
        return [path] if path.is_file() else []
    found = []
    for directory, inner, names in os.walk(path):
        inner.sort()
        files = (Path(directory, name) for name in sorted(names))
        found += [file for file in files if file.is_file() and not file.is_symlink()]
    return found


def standard_library() -> tuple[Path, list[Path]]:
    """Where the standard library lies, and its Python sources."""
    root = Path(sysconfig.get_path("stdlib"))
    sources = []
    for directory, inner, names in os.walk(root):
        inner[:] = sorted(set(inner) - _NOT_STANDARD)
        sources += [Path(directory, name) for name in sorted(names) if name.endswith(".py")]
    return root, [source for source in sources if source.is_file()]


def count(file: Path) -> int:
    """The number of words in a file, UNREADABLE if it cannot be read."""
    words = 0
    in_word = False
    try:
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                words += len(block.split())
                # A word that reaches across the edge of two blocks was counted in both.
                words -= in_word and block[0] not in _SPACE
                in_word = block[-1] not in _SPACE
    except OSError:
        return UNREADABLE
    return words
