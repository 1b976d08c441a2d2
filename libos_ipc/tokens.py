"""Tokens: what a process needs to find a group. A locator, not a secret."""

from __future__ import annotations

from typing import NamedTuple

from libos_ipc.errors import InvalidArgument

__all__ = ["Token"]

_PREFIX = "libos-ipc:1"


class Token(NamedTuple):
    """Where a group lives, which one it is, and who issued the token (it becomes the parent)."""

    name: str
    group_id: str
    issuer: int
    runtime_dir: str

    def __str__(self) -> str:
        return f"{_PREFIX}:{self.name}:{self.group_id}:{self.issuer}:{self.runtime_dir}"

    @staticmethod
    def is_one(text: str) -> bool:
        """Whether `text` is meant as a token rather than as a name (names have no colon)."""
        return text.startswith("libos-ipc:")

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that `text` says. InvalidArgument if it is none."""
        parts = text.split(":", 5)
        if len(parts) != 6 or ":".join(parts[:2]) != _PREFIX or not parts[4].isdecimal():
            raise InvalidArgument(f"{text!r:.99} is no token: pass on what Group.token() gave")
        return cls(parts[2], parts[3], int(parts[4]), parts[5])
