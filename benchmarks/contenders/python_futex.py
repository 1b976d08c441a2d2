"""Limit: Python at both ends of a futex, and nothing between; see `python_futex.c`.

What a request costs that has an interpreter to leave and to enter again at either end, a bytes
object to make there and a function to call, and no library.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any

from benchmarks.contender import PAYLOAD, Sampler, Setup, answering, main, timed


def loaded(path: str) -> Any:
    """The extension that was compiled there."""
    loader = ExtensionFileLoader("python_futex", path)
    spec = spec_from_loader("python_futex", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def handler(payload: bytes) -> bytes:
    return payload


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    extension = loaded(setup["extension"])
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    with answering(lambda: extension.serve(memory, handler), setup):

        def request(payload: bytes) -> object:
            return extension.ask(memory, payload)

        assert request(PAYLOAD) == PAYLOAD
        yield lambda count: timed(request, count)


if __name__ == "__main__":
    main(opened)
