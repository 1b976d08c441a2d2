"""A job that exactly one of many processes runs, and that survives the one that runs it.

    python examples/exactly_one.py [--processes N] [--steps N]

All processes call `run_once`; it returns in each of them when the job is done. One is let in and
works; the others wait. If it is killed, the next one is let in at once, without any time-out, and
goes on after the last step that was committed. No two ever work at the same time. A step that its
process did not live to commit is done again: it must be one that may be. To show this, whoever is
let in first is killed in the middle of the job.
"""

import argparse
import os
import signal
import time

import msgspec

import libos_ipc


class Job(msgspec.Struct):
    """How far it is: which process has done each of the steps that are done."""

    done_by: list[int] = []


def run_once(group, name, steps):
    turn = group.sync(f"{name}: whose turn")
    job = group.sync(name, type=Job)
    with turn.exclusive():
        while True:
            with job.shared() as now:
                number = len(now.done_by)
            if number == len(steps):
                return
            steps[number](group, number)
            with job.exclusive() as box:
                box.value.done_by.append(group.pid)


def step(group, number):
    print(f"process {group.pid} does step {number}", flush=True)
    time.sleep(0.02)


def dangerous_step(group, number):
    """Whoever has done the steps before it is killed in this one."""
    step(group, number)
    with group.sync("job", type=Job).shared() as now:
        if group.pid in now.done_by:
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    steps = [step] * args.steps
    steps[args.steps // 2] = dangerous_step
    with libos_ipc.Group.create() as group:
        job = group.sync("job", type=Job)  # kept as long as anybody has it open: here, to the end
        for _ in range(args.processes):
            group.spawn(run_once, group, "job", steps)
        ends = [group.wait() for _ in range(args.processes)]
        with job.shared() as now:
            done_by = now.done_by
    for end in ends:
        said = f"killed by signal {end.signal}" if end.signal else "ended with the job done"
        print(f"process {end.pid}: {done_by.count(end.pid)} steps, {said}")
    print(f"{len(done_by)} of {args.steps} steps are done, by {len(set(done_by))} processes")


if __name__ == "__main__":
    main()
