"""What the library costs, next to what others cost and what the machine allows.

`python -m benchmarks` measures every row, prints one table and writes JSON and a plot to
`benchmarks/out/`. The parts, bottom up:

    model.py        a series of times, a line of the table, whether its target is met
    placement.py    on which cores the two ends of an exchange run
    contender.py    a measured program's side: placed, warmed up, asked for rounds over a pipe
    contenders/     the measured programs: ours and the peers, one file each
    limits.c        what the machine itself allows, compiled on the spot by limits.py
    rounds.py       our side: starts contenders, interleaves their rounds, ends them
    rows/           one file per row or family of rows: which contenders, which target
    report.py plot.py docs.py machine.py       table and JSON, picture, documentation, description

Every contender is a program of its own, so that no library's threads, sockets or imports are in
the process of another one while that is measured. Nothing here is a test: no time makes anything
fail.
"""
