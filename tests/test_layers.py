"""The rules of the house, read from the code itself: layers, sizes, names, docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import libos_ipc

ROOT = Path(libos_ipc.__file__).resolve().parent
MODULES = sorted(ROOT.rglob("*.py"))

#: What belongs to which layer, the first match counts; a layer imports itself and those below.
LAYERS = [
    ("libos_ipc._native", 0),
    ("libos_ipc.errors", 0),
    ("libos_ipc.config", 1),
    ("libos_ipc.core", 1),
    ("libos_ipc.wire", 2),
    ("libos_ipc.runtime", 3),
    ("libos_ipc.cli", 5),
    ("libos_ipc.__main__", 5),
    ("libos_ipc", 4),
]

LOCKS = {
    "file_locks",
    "lock_edges",
    "lock_owners",
    "lock_ranges",
    "lock_space",
    "lock_table",
    "lock_undo",
    "lock_waiters",
    "lock_words",
    "overlaps",
    "wait_graph",
}
SYNC = {
    "sync_check",
    "sync_client",
    "sync_handle",
    "sync_deposits",
    "sync_holder",
    "sync_mark",
    "sync_passing",
    "sync_taking",
    "sync_payload",
    "sync_rows",
    "sync_server",
    "sync_table",
    "sync_waits",
    "sync_words",
}
#: Machines of the core, which know nothing of each other, and their own data structures. Only
#: the roles know them all: leader, roster and desks, member and its ends.
MACHINES = {
    "links": set(),
    "lanes": {"links"},
    "calls": set(),
    "counters": {"links"},
    "provision": set(),
    "stall": set(),
    "succession": {"succession_words"},
    "succession_words": set(),
    "local_ids": set(),
    "ids": {"range_tree", "free_space"},
    "signals": set(),
    "particulars": set(),
    "process_groups": {"ids"},
    "descriptors": set(),
    **dict.fromkeys(LOCKS, LOCKS),
    **dict.fromkeys(SYNC, SYNC),
}
CORE_WORDS = {"codes", "lane_words", "vocabulary"}

#: The names that programs rely on, as far as they exist.
CONTRACT = {
    "Child",
    "Deadlock",
    "ExitStatus",
    "Group",
    "GroupConfig",
    "IdsExhausted",
    "InvalidRange",
    "IpcError",
    "LeaderLost",
    "Member",
    "Message",
    "MessageTooLarge",
    "NotJoined",
    "OwnerDied",
    "PeerDied",
    "PermissionDenied",
    "ProtocolError",
    "RemoteError",
    "Timeout",
    "WouldBlock",
    "current",
}

#: Module-level state, and why it is allowed.
STATE = {
    ("group", "_joined"): "the groups of this process",
    ("group", "_prepared"): "multiprocessing has been told of us",
    ("group", "_hooks"): "what Python calls around forks",
    ("group", "_stacks"): "where a signal has the stacks of this process written",
    ("runtime.lock_file", "_opened"): "lock files must not be opened twice in a process",
    ("runtime.lock_file", "_guard"): "which two threads must not do at once",
}

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    return next(n for prefix, n in LAYERS if module == prefix or module.startswith(prefix + "."))


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def runtime_imports_of(path: Path) -> set[str]:
    """Everything imported, but for what only type checkers see."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    return set(imports_of(tree))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_stands_below_it(path: Path) -> None:
    if path == ROOT / "__init__.py":
        return
    mine = layer_of(name_of(path))
    above = {name for name in runtime_imports_of(path) if name.startswith("libos_ipc")}
    assert {name for name in above if layer_of(name) > mine and name != "libos_ipc"} == set()


def test_machines_do_not_import_one_another() -> None:
    for machine, own in MACHINES.items():
        allowed = CORE_WORDS | own
        for name in runtime_imports_of(ROOT / "core" / f"{machine}.py"):
            if name.startswith("libos_ipc.core."):
                assert name.split(".")[2] in allowed, (machine, name)


def test_the_core_does_not_touch_the_operating_system() -> None:
    forbidden = {"os", "time", "socket", "select", "threading", "logging", "zmq", "random"}
    for path in (ROOT / "core").glob("*.py"):
        assert not forbidden & {name.split(".")[0] for name in runtime_imports_of(path)}, path


def test_the_transport_imports_zeromq() -> None:
    users = [
        path for path in MODULES if "zmq" in {n.split(".")[0] for n in runtime_imports_of(path)}
    ]
    assert {path.name for path in users} == {"ports.py", "zmq_transport.py"}


def test_one_header_includes_python() -> None:
    native = ROOT.parent / "native"
    if not native.is_dir():
        pytest.skip("the sources of the extension are not beside the package")
    users = [
        path.name for path in native.glob("*.[ch]") if "#include <Python.h>" in path.read_text()
    ]
    assert users == ["native.h"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_one_idea(path: Path) -> None:
    """Which cannot be measured; its size can, and the prose at its head."""
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "what is the problem, and the idea?"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MOST_LINES_OF_A_FUNCTION, node.name


def test_a_file_of_the_extension_has_one_idea() -> None:
    """By its size, too; and a header says in prose what it is about."""
    for path in (ROOT.parent / "native").glob("*.[ch]"):
        text = path.read_text()
        assert len(text.splitlines()) <= MOST_LINES, path.name
        assert path.suffix == ".c" or text.startswith("/* "), path.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_keeps_no_state(path: Path) -> None:
    module = name_of(path).removeprefix("libos_ipc.")
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        name = ast.unparse(target)
        value = node.value
        empty = (isinstance(value, ast.Dict) and not value.keys) or (
            isinstance(value, ast.List | ast.Set) and not value.elts
        )
        made = isinstance(value, ast.Call) and name.startswith("_") and name.islower()
        harmless = made and ast.unparse(value.func).split(".")[-1] in {"encode", "Struct"}
        if empty or (made and not harmless and "hooks" in name):
            assert (module, name) in STATE, f"{module}.{name} is state outside of an object"


def test_every_public_name_has_a_docstring_and_belongs_to_the_contract() -> None:
    assert set(libos_ipc.__all__) >= CONTRACT
    assert sorted(libos_ipc.__all__) == libos_ipc.__all__
    for name in libos_ipc.__all__:
        thing = getattr(libos_ipc, name)
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for attribute, member in vars(thing).items():
                public = not attribute.startswith("_")
                if public and (inspect.isfunction(member) or isinstance(member, property)):
                    assert inspect.getdoc(member), f"{name}.{attribute}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_a_module_exports_exists(path: Path) -> None:
    if path.name == "__main__.py":
        return
    module = importlib.import_module(name_of(path))
    for name in getattr(module, "__all__", ()):
        assert hasattr(module, name), name
