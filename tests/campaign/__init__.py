"""Real processes under random load and random faults; what must hold is checked afterwards.

A campaign is a row of *acts*. An act founds a group whose settings are drawn from its seed, lets
workers do everything that the library offers, at random, while some of them are killed or stopped,
and ends the group. Each process writes down what it does, before and after, in a file of its own,
with one system call a line: what it had done when it was killed is there. From these histories
follows whether every promise was kept.

    script       what an act's seed decides
    record       a process's own record
    worker       what a worker does, over and over
    deeds        the single things to do: messages, IDs, locks, values, signals, forks
    act          one act: workers, faults, the end
    traces       files, processes, descriptors that were left behind
    history      the records of all processes, joined
    verdict_…    what must hold: messages, owners (IDs and locks), values, children
    linearizability    whether what users of a value saw can be explained

    python -m tests.campaign --minutes 2           acts until the time is over
    python -m tests.campaign --act 4711            one of them again: same load, other timing

The seed decides load and faults, not the moments at which they meet; so an act that failed fails
again only perhaps. Its records are kept, and their place is printed.
"""
