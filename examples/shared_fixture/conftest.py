"""A suite whose tests share one expensive fixture, however many workers run them.

    pip install -e '.[test]'            # in the checkout, whose settings pytest takes
    pytest -n 4 examples/shared_fixture

`database` takes a while to make. Under pytest-xdist each worker would make one of its own; with
`shared` one worker makes it, the others wait for it, and it is removed when the last worker has
run its last test. What is shared between processes must be a value: here, the path of the file.
"""

import pathlib
import shutil
import sqlite3
import tempfile

import pytest

pytest_plugins = ["libos_ipc.pytest_plugin"]


def make_database():
    path = pathlib.Path(tempfile.mkdtemp(prefix="shared-fixture-"), "database")
    database = sqlite3.connect(path)
    with database:
        database.execute("create table squares (number integer primary key, square integer)")
        rows = ((number, number**2) for number in range(100_000))
        database.executemany("insert into squares values (?, ?)", rows)
        database.execute("create table asked (number integer)")
    database.close()
    return str(path)


def remove_database(path):
    shutil.rmtree(pathlib.Path(path).parent)


@pytest.fixture(scope="session")
def database_path(shared):
    return shared("database", make_database, finalize=remove_database)


@pytest.fixture
def database(database_path):
    connection = sqlite3.connect(database_path, timeout=60)
    yield connection
    connection.close()
