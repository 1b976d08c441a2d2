"""Many processes append records to one file, and no line is ever torn.

    python examples/append_log.py [--workers N] [--records N] [FILE]

A record is written in pieces, as it comes, under `group.file_lock`: a fair lock, which a process
that dies gives back. What such a process has written by then is half a record: whoever writes
next cuts it off. One worker is killed in the middle of a record to show this. At the end the
file is read again, and every line is looked at.
"""

import argparse
import json
import os
import pathlib
import signal
import tempfile

import libos_ipc


def append(group, path, pieces):
    """A record more, a line of the file, to which all processes of the group may append."""
    with group.file_lock(path), open(path, "a+b", buffering=0) as file:
        cut_off_half_a_record(file)
        for piece in pieces:
            file.write(piece.encode())
        file.write(b"\n")


def cut_off_half_a_record(file):
    end = start = file.seek(0, os.SEEK_END)
    while start and os.pread(file.fileno(), 1, start - 1) != b"\n":
        start -= 1
    if start < end:
        file.truncate(start)
        print(f"cut off {end - start} bytes that a dead process had left")


def record(group, number):
    yield f'{{"process": {group.pid}, "number": {number}, "values": ['
    yield ", ".join(str(n) for n in range(number % 50))
    yield "]}"


def work(group, path, records):
    for number in range(records):
        append(group, path, record(group, number))


def die(group, path):
    def half_a_record():
        yield '{"process": '
        os.kill(os.getpid(), signal.SIGKILL)

    append(group, path, half_a_record())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("file", type=pathlib.Path, nargs="?")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, libos_ipc.Group.create() as group:
        path = args.file or pathlib.Path(directory) / "log"
        path.touch()
        before = path.read_bytes().count(b"\n")
        workers = [group.spawn(work, group, path, args.records) for _ in range(args.workers)]
        assert group.spawn(die, group, path).wait().signal == signal.SIGKILL
        assert all(worker.wait().code == 0 for worker in workers)
        append(group, path, ['"the end"'])
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        print(f"{args.workers} processes appended {len(lines) - before - 1} lines, none is torn")


if __name__ == "__main__":
    main()
