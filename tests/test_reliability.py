"""docs/reliability.md: what it names as shown by a test is a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", TEXT)))
FILES = sorted(set(re.findall(r"`(tests/[\w/]+\.\w+)", TEXT)))


def test_it_names_some() -> None:
    assert len(TESTS) > 20


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", FILES)
def test_a_file_that_is_named_is_there(path: str) -> None:
    assert (ROOT / path).is_file()
