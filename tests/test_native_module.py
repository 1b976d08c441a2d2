"""The module as such: no state outside of it, its names, and more than one interpreter."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
import weakref
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType

import pytest

from libos_ipc import _native


def loaded_again() -> ModuleType:
    """A second module object of the same file."""
    assert _native.__file__
    loader = ExtensionFileLoader(_native.__name__, _native.__file__)
    spec = spec_from_loader(_native.__name__, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_each_module_object_has_its_own_state() -> None:
    other = loaded_again()
    assert other.Malformed is not _native.Malformed
    assert other.Layout is not _native.Layout
    with pytest.raises(other.Malformed):
        other.Layout("I").unpack(b"")
    with pytest.raises(_native.Malformed):
        _native.Layout("I").unpack(b"")


def test_a_module_object_goes_with_all_it_made() -> None:
    def load_and_drop() -> list[weakref.ref[object]]:
        other = loaded_again()
        other.layout = other.Layout("I")  # type: ignore[attr-defined]
        other.table = other.Outstanding()  # type: ignore[attr-defined]
        things = [weakref.ref(other.Malformed), weakref.ref(other.Layout), weakref.ref(other)]
        del other
        gc.collect()
        return things

    for _ in range(3):
        assert [thing() for thing in load_and_drop()] == [None, None, None]
    rounds = 20

    def growth() -> int:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(rounds):
            load_and_drop()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    load_and_drop()
    # The interpreter's own tables grow now and then, by much and once; what leaks grows each time,
    # and the smallest of the types has 1000 bytes.
    least = min(growth() for _ in range(3))
    tracemalloc.stop()
    assert least < 500 * rounds


def test_names() -> None:
    assert issubclass(_native.Malformed, ValueError)
    for kind in (_native.Malformed, _native.Layout, _native.Outstanding):
        assert kind.__module__ == "libos_ipc._native"
        assert kind.__doc__
        assert getattr(_native, kind.__name__) is kind


def test_types_are_final_and_immutable() -> None:
    for kind in (_native.Layout, _native.Outstanding):
        with pytest.raises(TypeError):
            type("Sub", (kind,), {})
        with pytest.raises(TypeError):
            setattr(kind, "extra", 1)  # noqa: B010


IN_ANOTHER_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

load = '''
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
loader = ExtensionFileLoader("libos_ipc._native", FILE)
native = module_from_spec(spec_from_loader("libos_ipc._native", loader))
loader.exec_module(native)
table = native.Outstanding()
assert table.add(1, "ticket") == 1
try:
    native.unpack_envelope(b"")
except native.Malformed:
    pass
else:
    raise SystemExit("not refused")
'''.replace("FILE", repr(sys.argv[1]))
exec(load)
for _ in range(3):
    other = interpreters.create()
    failure = interpreters.run_string(other, load)
    assert failure is None, failure
    interpreters.destroy(other)
    assert table.take(1, 1) in ("ticket", None)
"""


def test_several_interpreters() -> None:
    pytest.importorskip("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    assert _native.__file__
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_INTERPRETER, _native.__file__],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
