"""Threads of several processes that lock, write, wait, give up and die, as somebody chooses.

A thread that waits does nothing else, as threads do. What is chosen is drawn by whoever drives
this: `choose` gets a list and gives one of its elements.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeAlias

from sync_group import Group

from libos_ipc.core.sync_words import Failed, Granted, State

Choose: TypeAlias = Callable[[list[Any]], Any]
Thread: TypeAlias = tuple[int, int]

SHARED, EXCLUSIVE = State.SHARED, State.EXCLUSIVE


class Crowd:
    """`calm`: nobody is interrupted, closes or dies. `disturbed`: somebody was or did, so that a
    cycle may be reported that is just coming apart."""

    def __init__(self, choose: Choose) -> None:
        self.group = Group(*range(2, 2 + choose([2, 3, 4])))
        self.threads = range(1, 1 + choose([1, 2]))
        self.ids = [1001 + n for n in range(choose([1, 2, 3]))]
        self.on_death = choose(["last", "raise"])
        self.calm = choose([False, True])
        self.disturbed = False
        self.written = 0
        for vmid in list(self.group.clients):
            for id in self.ids:
                self.group.open(vmid, id=id, on_death=self.on_death)
        #: thread -> (id, ticket, timed) that it waits for
        self.waiting: dict[Thread, tuple[int, Any, bool]] = {}
        self.group.on_cycle = self.on_cycle  # type: ignore[method-assign]

    def on_cycle(self, agent: Thread) -> None:
        assert self.disturbed or self.group.truly_in_a_cycle(agent), agent

    # ---- who does what

    def idle(self) -> list[Thread]:
        threads = [(vmid, thread) for vmid in self.group.clients for thread in self.threads]
        return [thread for thread in threads if thread not in self.waiting]

    def used_by(self, thread: Thread) -> list[int]:
        handles = self.group.clients[thread[0]]._handles.values()
        return [handle.id for handle in handles if handle.user == thread[1]]

    def users(self) -> list[tuple[Thread, int]]:
        return [(thread, id) for thread in self.idle() for id in self.used_by(thread)]

    def look(self) -> None:
        """Threads whose tickets are settled go on."""
        for thread, (_, ticket, _) in list(self.waiting.items()):
            effect = self.group.settled.get(ticket)
            if effect is None:
                continue
            del self.waiting[thread]
            assert isinstance(effect, Granted | Failed)
            if isinstance(effect, Failed):
                name = self.group.failed_with(ticket)
                assert name in ("EDEADLK", "EOWNERDEAD", "ENOTCONN")
                assert name != "EOWNERDEAD" or self.on_death == "raise"

    # ---- steps

    def lock(self, choose: Choose) -> None:
        if threads := self.idle():
            self.ask(choose, choose(threads), self.ids)

    def lock_another(self, choose: Choose) -> None:
        """By one who uses something: of such waits cycles are made."""
        if users := self.users():
            thread, _ = choose(users)
            used = self.used_by(thread)
            self.ask(choose, thread, [id for id in self.ids if id not in used])

    def ask(self, choose: Choose, thread: Thread, ids: list[int]) -> None:
        if ids:
            id, timed = choose(ids), choose([False, False, False, True])
            state = choose([SHARED, EXCLUSIVE, EXCLUSIVE])
            ticket = self.group.lock(thread[0], id, thread[1], state, timed)
            self.waiting[thread] = (id, ticket, timed)
            self.go_on(choose)

    def unlock(self, choose: Choose) -> None:
        if users := self.users():
            (vmid, thread), id = choose(users)
            self.written += 1
            exclusive = self.group.clients[vmid]._handles[id].using == EXCLUSIVE
            value = b"%d" % self.written if exclusive and choose([False, True]) else None
            self.group.unlock(vmid, id, thread, value)
            self.go_on(choose)

    def arrive(self, choose: Choose) -> None:
        ways = [(self.group.arrive_up, vmid) for vmid, way in self.group.up.items() if way]
        ways += [(self.group.arrive_down, vmid) for vmid, way in self.group.down.items() if way]
        if ways:
            arrives, vmid = choose(ways)
            for _ in range(choose([1, 2, 3])):
                arrives(vmid)
            self.look()

    def go_on(self, choose: Choose) -> None:
        """Some of what is on its way arrives, or all of it, or nothing."""
        then = choose(["nothing", "some", "all", "all"])
        if then == "all":
            self.group.run()
        elif then == "some":
            for vmid in self.group.up:
                self.group.arrive_up(vmid)
        self.look()

    def disturb(self, choose: Choose) -> None:
        """What threads and processes do rarely; where all is calm, only time-outs and watches."""
        steps = [self.time_out, self.watch]
        if not self.calm:
            steps += [self.interrupt, self.close, self.kill, self.lead]
        choose(steps)(choose)
        self.go_on(choose)

    def time_out(self, choose: Choose) -> None:
        self.give_up(choose, [thread for thread, wait in self.waiting.items() if wait[2]])

    def interrupt(self, choose: Choose) -> None:
        self.disturbed = True
        self.give_up(choose, list(self.waiting))

    def give_up(self, choose: Choose, threads: list[Thread]) -> None:
        if threads:
            thread = choose(threads)
            id, ticket, _ = self.waiting.pop(thread)
            self.group.withdraw(thread[0], id, ticket)

    def watch(self, choose: Choose) -> None:
        vmid, id = choose(sorted(self.group.clients)), choose(self.ids)
        if id in self.group.clients[vmid]._handles:
            self.group.watch(vmid, id)

    def close(self, choose: Choose) -> None:
        """And perhaps open again, before or after."""
        vmid, id = choose(sorted(self.group.clients)), choose(self.ids)
        self.disturbed = True
        when = choose(["before", "after", "never"])
        if when == "before":
            self.group.ask_to_open(vmid, id, "", self.on_death)
        if id in self.group.clients[vmid]._handles:
            free = not self.group.clients[vmid].user_of(id)
            self.group.close(vmid, id, force=not free or choose([False, True]))
        if when == "after":
            self.group.ask_to_open(vmid, id, "", self.on_death)

    def kill(self, choose: Choose) -> None:
        if len(self.group.clients) > 1:
            vmid = choose(sorted(self.group.clients))
            self.disturbed = True
            self.group.kill(vmid, lost=choose([False, True]))
            for thread in [thread for thread in self.waiting if thread[0] == vmid]:
                del self.waiting[thread]

    def lead(self, choose: Choose) -> None:
        """Another leader takes over, or members turn to the one who has."""
        self.disturbed = True
        if not self.group.adrift:
            self.group.lose_leader()
        for vmid in sorted(self.group.adrift):
            if choose([False, True]):
                self.group.resume(vmid)

    # ---- what must hold

    def check(self) -> None:
        self.group.check()
        assert not self.group.notes

    def rest(self) -> None:
        """Who does not wait unlocks what it uses, until nobody waits: no cycle was overlooked."""
        group = self.group
        for vmid in sorted(group.adrift):
            group.resume(vmid)
        while True:
            group.run()
            self.look()
            users = self.users()
            timed = [thread for thread, (_, _, timed) in self.waiting.items() if timed]
            if users:
                (vmid, thread), id = users[0]
                group.unlock(vmid, id, thread)
            elif timed:
                id, ticket, _ = self.waiting.pop(timed[0])
                group.withdraw(timed[0][0], id, ticket)
            else:
                break
        self.check()
        assert not self.waiting, f"overlooked: {self.waiting}"
        assert not group.server.waiting
        for handle in group.server.handles.values():
            assert not handle.queue
            assert not any(row.recall or row.user for row in handle.rows.values())
        assert not any(client._closing for client in group.clients.values())


#: How often each step is taken by `walk`.
STEPS = ["lock", "lock", "lock_another", "lock_another", "unlock", "arrive", "arrive", "disturb"]


def walk(seed: int, steps: int) -> Crowd:
    """A crowd on its way, all drawn from one seed."""
    choose = random.Random(seed).choice
    crowd = Crowd(choose)
    for _ in range(steps):
        getattr(crowd, choose(STEPS))(choose)
        crowd.check()
    crowd.rest()
    return crowd
