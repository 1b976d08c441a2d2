"""README.md and docs/api.md say what is so: programs run, tables are complete, links lead on."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import processes
import pytest

import libos_ipc

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
API = ROOT / "docs" / "api.md"

#: A fenced block: its language, what else stands behind it, and its text.
BLOCK = re.compile(r"^```(\w+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A code block of a document."""

    document: str
    line: int
    language: str
    mark: str
    text: str


def blocks() -> list[Block]:
    """The code blocks of all documents that have programs to be run."""
    found = []
    for path in (README, API):
        content = path.read_text()
        for match in BLOCK.finditer(content):
            line = content.count("\n", 0, match.start()) + 1
            language, mark, text = match.groups()
            found.append(Block(path.name, line, language or "", mark.strip(), text))
    return found


def by_line(block: Block) -> str:
    return f"{block.document}:{block.line}"


BLOCKS = blocks()
PROGRAMS = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [block for block in BLOCKS if block.language == "sh" and not block.mark]


def run(words: list[str], where: Path, environ: dict[str, str]) -> None:
    done = subprocess.run(
        words,
        cwd=where,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * processes.DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("block", PROGRAMS, ids=by_line)
@pytest.mark.usefixtures("runtime_dir")
def test_programs_run(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.text)
    warnings = ["-W", "error"]
    if sys.version_info[:3] == (3, 13, 0):  # which warns of every fork, see the README
        warnings += ["-W", "ignore:This process:DeprecationWarning"]
    run([sys.executable, *warnings, str(program)], tmp_path, dict(os.environ))


@pytest.mark.parametrize("block", COMMANDS, ids=by_line)
@pytest.mark.usefixtures("runtime_dir")
def test_commands_run(block: Block) -> None:
    here = Path(sys.executable).parent
    if shutil.which("python", path=str(here)) is None:
        pytest.skip(f"there is no command `python` in {here}")
    environ = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}"}
    run(["bash", "-e", "-c", block.text], ROOT, environ)


def test_every_block_is_run_or_installs() -> None:
    others = [block for block in BLOCKS if block not in PROGRAMS + COMMANDS]
    assert [(block.language, block.mark) for block in others] == [("sh", "install")]


def test_the_commands_to_install_are_those_that_are_tried() -> None:
    (block,) = (block for block in BLOCKS if block.mark == "install")
    assert block.text.splitlines()[1] in (ROOT / ".ci" / "run").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "test" in project["optional-dependencies"]
    assert "libos-ipc" in project["scripts"]
    for requirement in project["dependencies"]:
        name = re.split("[^a-z]", requirement)[0]
        assert re.search(rf"^\|.*\b{name}\b.*\|", README.read_text(), re.MULTILINE), name


def test_settings_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", README.read_text(), re.MULTILINE)
    defaults = libos_ipc.GroupConfig()
    fields = {name: repr(getattr(defaults, name)) for name in defaults.__struct_fields__}
    assert dict(rows) == fields


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 300


def test_links_lead_somewhere() -> None:
    for path in (README, *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_public_name_is_in_the_reference() -> None:
    text = API.read_text()
    named = set(re.findall(r"`[^`]*`", text))
    words = {word for name in named for word in re.findall(r"\w+", name)}
    missing = [name for name in libos_ipc.__all__ if name not in words]
    for owner in (libos_ipc.Group, libos_ipc.Child, libos_ipc.ExitStatus, libos_ipc.Member):
        missing += [
            f"{owner.__name__}.{name}"
            for name, _ in inspect.getmembers(owner)
            if not name.startswith("_") and name not in words and not hasattr(tuple, name)
        ]
    assert missing == []
