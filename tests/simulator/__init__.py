"""A whole group in one Python process: seeded, on a virtual clock, with everything going wrong.

The machines of `libos_ipc.core` are the real ones; around them the operating system, the
transport and the programs are simulated, and all that happens is drawn from one seed. So a
failure is repeated by naming its seed, and thousands of groups live and die within a minute.

    knobs      what differs from seed to seed: sizes, delays, how likely each fault is
    world      the clock, the order of events, the trace
    kernel     processes, liveness sockets, who is told of whose end
    lanes      shared memory between two processes
    batons     memory by which sync handles are passed on; also what native/baton.c is compared with
    deposits   memory from which what is not used is taken; likewise for native/deposit.c
    network    connections: FIFO each, delayed, cut, blocked; lost and repeated messages
    node       one process of the group: a `Member` driven as the runtime drives it
    program    what programs do with it: send, request, IDs, handlers; threads that wait
    signals    what programs do with signals, and what must hold of them
    locks      what programs do with file locks, and what must hold of them
    sync       what programs do with sync handles, and what must hold of their values
    life       join, fork, exec, leave, kill
    history    what must hold, from all that was observed
    scenario   one seed from the founding of the group to its end

    python -m tests.simulator --seeds 10000          many seeds
    python -m tests.simulator --seed 4711 --trace    one of them, event by event
"""
