"""Tests in all workers that use the one database, and see what the others have written."""

import pytest


@pytest.mark.parametrize("number", range(20))
def test_squares(database, number):
    with database:
        database.execute("insert into asked values (?)", (number,))
    query = "select square from squares where number = ?"
    assert database.execute(query, (number,)).fetchone() == (number**2,)


@pytest.mark.parametrize("number", range(20))
def test_nobody_has_asked_twice(database, number):
    query = "select count(*) from asked where number = ?"
    assert database.execute(query, (number,)).fetchone() in [(0,), (1,)]


def test_workers_know_each_other(libos_group):
    """A group is there for what the fixtures do not do: counting, messages, locks."""
    counter = libos_group.sync("tests that counted", type=int)
    with counter.exclusive() as box:
        box.value += 1
    assert box.value == 1
