"""Every state that a few clients, a server and one handle can reach: the real machines, explored.

A *node* is the whole world at one moment: all clients, the server, the messages on their way in
both directions, what the clients have committed to memory that outlives them, and how much the
programs may still do. From each node every possible step is taken: the next message of any
channel arrives; a thread locks, unlocks with a change or without, gives up waiting, watches for
a change; a process opens, closes, or is killed; the leader dies. Nothing is drawn at random.

Machines are deterministic. So what one does with one input is computed once, on a copy made by
`pickle`, and machines, channels and programs stand in the nodes as small numbers: most steps
are a look into a table. Whatever breaks a rule raises `Violation` with the way that led there.

In every state: no EXCLUSIVE beside another one; whoever may read has the value that was committed
last; the machines' own invariants; the journal gives the server's state again. And over all
states: if nothing happens but that messages arrive and users unlock, the world comes to rest,
in whatever order this happens, and then nobody waits. That is to say: the graph of these steps
alone has no cycle, and at its ends nobody is left.
"""

from __future__ import annotations

import errno
import pickle
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from msgspec import msgpack
from simulator.batons import BatonsTwin, BatonTwin, Word
from simulator.deposits import DepositsTwin, DepositTwin, Memory

from libos_ipc.core.sync_client import SyncClient
from libos_ipc.core.sync_server import SyncServer
from libos_ipc.core.sync_words import (
    NEVER_WRITTEN,
    Agent,
    Blockers,
    Changed,
    Closed,
    Commit,
    Failed,
    Granted,
    Hold,
    Place,
    RefuseWait,
    Remains,
    RequestClose,
    RequestDowngrade,
    State,
    Value,
)
from libos_ipc.core.vocabulary import Note

__all__ = ["Limits", "Space", "Violation", "search_cycle"]

ID = 7
SHARED, EXCLUSIVE = State.SHARED, State.EXCLUSIVE
OPEN, OPENED, GONE = "open", "opened", "gone"
DEAD = -1
#: A client may be told this often to go down before it answers: to SHARED, then to INVALID.
MOST_RECALLS = 2


class Violation(AssertionError):
    """A rule was broken; the text ends with the steps that lead there."""


class Broken(Exception):
    """A rule was broken in the step being taken."""


@dataclass(frozen=True)
class Limits:
    """How much may happen. Counts are per client, but for `kills` and `failovers`."""

    threads: tuple[int, ...] = (1, 1)  # of each client
    locks: int = 2
    writes: int = 1
    withdrawals: int = 0
    opens: int = 0  # beyond the first
    closes: int = 0
    watches: int = 0
    kills: int = 0
    failovers: int = 0
    on_death: str = "last"
    refusing: bool = False  # every wait that has somebody before it is called a deadlock
    timed: bool = False
    batons: bool = False  # there are some, from the first grant on …
    declines: bool = False  # … and the first client cannot have their memory
    deposits: bool = False  # what is not used may be put, at any moment, and be taken


class Program(NamedTuple):
    """What stands around one client: what it may still do, and what it left in memory."""

    locks: int
    writes: int
    withdrawals: int
    opens: int
    closes: int
    watches: int
    opening: bool  # has asked, and not been answered
    adrift: bool  # its leader has died, and it has not turned to the new one
    memory: Value | None
    holds: int  # the thread that was granted the lock and has not unlocked


class Node(NamedTuple):
    """The world at one moment; numbers stand for machines, channels and programs."""

    clients: tuple[int, ...]
    programs: tuple[int, ...]
    up: tuple[int, ...]  # from the clients
    down: tuple[int, ...]  # to them
    server: int
    last: Value  # committed last
    owed: bool  # a death has to be reported to the next one
    kills: int
    failovers: int
    memory: tuple[Word, ...] = ()  # of batons
    deposits: tuple[Any, ...] = ()  # what is put, by client


class Facts(NamedTuple):
    """What is to be known of a client's machine."""

    open: bool
    state: int
    value: Value
    user: int
    using: int
    waiting: tuple[int, ...]
    watching: tuple[object, ...]
    owner_died: bool
    at_rest: bool
    by_baton: bool = False


#: The memory of batons in the node from which a step is being taken.
MEMORY: dict[int, Word] = {}
#: … and that of deposits.
DEPOSITS: Memory = {}


class SpaceBaton(BatonTwin):
    """A client's. A copy of the client has the same."""

    def __init__(self, slot: int, number: int, me: int) -> None:
        super().__init__(MEMORY, slot, number, me)

    def _key(self) -> tuple[int, int, int]:
        return self.slot, self.number, self.me

    def __reduce__(self) -> tuple[Any, ...]:
        return SpaceBaton, self._key()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpaceBaton) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class SpaceDeposit(DepositTwin):
    """A client's. Epochs are left out: a leader that is no more takes from who is adrift."""

    def __init__(self, me: int, id: int) -> None:
        super().__init__(DEPOSITS, me, id, 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return SpaceDeposit, self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpaceDeposit) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class SpaceClient(SyncClient):
    """A client that knows who it is, so that none is taken for another one that is alike."""

    __slots__ = ("declines", "me")

    def __init__(self, me: int, declines: bool) -> None:
        super().__init__(max_value=100, open_baton=self.open_own)
        self.me, self.declines = me, declines

    def with_deposits(self) -> SpaceClient:
        self.open_deposit = partial(SpaceDeposit, self.me)
        return self

    def open_own(self, place: Place) -> SpaceBaton | None:
        return None if self.declines else SpaceBaton(*place[1:], self.me)

    def state(self) -> tuple[object, ...]:
        return *super().state(), self.me


class SpaceBatons(BatonsTwin):
    """The server's."""

    one_handle = True

    def __init__(self) -> None:
        super().__init__(MEMORY)

    def __reduce__(self) -> tuple[Any, ...]:
        return SpaceBatons, ()


class SpaceDeposits(DepositsTwin):
    """The server's."""

    def __init__(self) -> None:
        super().__init__(DEPOSITS, lambda vmid, id: Remains(DEPOSITS[vmid, id].value, False))

    def __reduce__(self) -> tuple[Any, ...]:
        return SpaceDeposits, ()


def search_cycle(server: SyncServer, agent: Agent, blockers: Blockers) -> str | None:
    """The plainest search for a way back to `agent`."""
    seen: set[Agent] = set()
    ways = [(other, [why]) for other, why in blockers]
    while ways:
        other, reasons = ways.pop()
        if other == agent:
            return "; ".join(reasons)
        if other not in seen:
            seen.add(other)
            ways += [(next, [*reasons, why]) for next, why in server.waits_for(other)]
    return None


class Search:
    """Finds cycles over one server's handles alone; all of a handle's waits, if `refusing`."""

    def __init__(self, refusing: bool = False) -> None:
        self.refusing = refusing
        self.server: SyncServer | None = None

    def __call__(self, agent: Agent, blockers: Blockers) -> str | None:
        assert self.server is not None
        return "refused" if self.refusing else search_cycle(self.server, agent, blockers)


class Numbers:
    """Small numbers for hashable things."""

    def __init__(self) -> None:
        self.of: dict[Any, int] = {}
        self.things: list[Any] = []

    def number(self, thing: Any) -> int:
        number = self.of.setdefault(thing, len(self.things))
        if number == len(self.things):
            self.things.append(thing)
        return number


class Machines:
    """Machines of one kind by the number of their state, and what each does with each input."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.pickled: list[bytes] = []
        self.known: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def add(self, machine: Any) -> int:
        number = self.numbers.number(self.key(machine))
        if number == len(self.pickled):
            try:
                machine.check()
            except AssertionError as error:
                raise Broken(f"check: {error!r} in {machine.state()}") from error
            self.pickled.append(pickle.dumps(machine))
        return number

    def key(self, machine: Any) -> tuple[Any, ...]:
        """All that decides on what it does."""
        state: tuple[Any, ...] = machine.state()
        return state

    def copy(self, number: int) -> Any:
        return pickle.loads(self.pickled[number])

    def run(self, number: int, given: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]]:
        key = (number, type(given[-1]), given, *MEMORY.values(), *DEPOSITS.items())
        known = self.known.get(key)
        if known is None:
            done = self.do(self.copy(number), *given)
            known = self.known[key] = *done, dict(MEMORY), dict(DEPOSITS)
        MEMORY.update(known[2])
        DEPOSITS.clear()
        DEPOSITS.update(known[3])
        return known[0], known[1]

    def do(self, machine: Any, name: str, *args: Any) -> tuple[int, tuple[Any, ...]]:
        result = getattr(machine, name)(*args)
        return self.add(machine), tuple(result) if isinstance(result, list) else (result,)


class Clients(Machines):
    """A caller's step may be broken off, and undone: then nothing has happened. Batons stay out of
    it, for their memory does not go back."""

    def do(self, machine: Any, name: str, *args: Any) -> tuple[int, tuple[Any, ...]]:
        cell = machine.cell_of(ID)
        if name in ("lock", "unlock", "withdraw", "watch") and cell and cell.baton is None:
            before = machine.mark(ID)
            state = machine.state()
            getattr(machine, name)(*args)
            if machine.return_to(ID, before) or machine.state() != state:
                raise Broken(f"{name} undone leaves {machine.state()}, and it was {state}")
        return super().do(machine, name, *args)


class Servers(Machines):
    def key(self, machine: Any) -> tuple[Any, ...]:
        moves = (min(handle.moves, machine.moves) for handle in machine.handles.values())
        return *machine.state(), tuple(moves)

    def do(self, machine: Any, name: str, *args: Any) -> tuple[int, tuple[Any, ...]]:
        before = pickle.dumps(machine)
        if name == "on_gone":
            vmid, remains = args
            decision = machine.on_gone(vmid, lambda id: remains)
        elif name == "open":
            decision = machine.open(*args)[1]
        else:
            decision = getattr(machine, name)(*args)
        successor = pickle.loads(before)
        successor.replay(msgpack.decode(msgpack.encode(decision.records)))
        if successor.state() != machine.state():
            raise Broken(f"journal: {decision.records} gives {successor.state()}")
        if decision.notes:
            raise Broken(f"an honest client was ignored: {decision.notes}")
        return self.add(machine), tuple(decision.messages)


@dataclass(slots=True)
class Step:
    """A step being taken: the parts of a node, to be changed."""

    space: Space
    clients: list[int]
    programs: list[int]
    up: list[int]
    down: list[int]
    server: int
    last: Value
    owed: bool
    kills: int
    failovers: int
    memory: tuple[Word, ...]
    deposits: tuple[Any, ...]

    def node(self) -> Node:
        return Node(
            tuple(self.clients),
            tuple(self.programs),
            tuple(self.up),
            tuple(self.down),
            self.server,
            self.last,
            self.owed,
            self.kills,
            self.failovers,
            tuple(MEMORY.values()),
            tuple(sorted(DEPOSITS.items())),
        )

    # ---- programs and channels

    def program(self, i: int) -> Program:
        found: Program = self.space.programs.things[self.programs[i]]
        return found

    def change(self, i: int, **fields: Any) -> None:
        self.programs[i] = self.space.programs.number(self.program(i)._replace(**fields))

    def spend(self, i: int, what: str) -> None:
        self.change(i, **{what: getattr(self.program(i), what) - 1})

    def send(self, channels: list[int], i: int, *words: Any) -> None:
        there = self.space.channels.things[channels[i]]
        # With its type, since tuples of different names may be equal.
        sent = ((type(word), word) for word in words)
        channels[i] = self.space.channels.number((*there, *sent))

    def take(self, channels: list[int], i: int) -> Any:
        first, *rest = self.space.channels.things[channels[i]]
        channels[i] = self.space.channels.number(tuple(rest))
        return first[1]

    # ---- what the machines do

    def client(self, i: int, *given: Any) -> tuple[Any, ...]:
        """A client's machine gets an input; its messages go on their way."""
        self.clients[i], effects = self.space.clients.run(self.clients[i], given)
        words = []
        for word in MEMORY.values():
            if not word.ended and word.value.version > self.last.version:
                self.last = word.value
        for effect in effects:
            if isinstance(effect, Commit):
                self.last = effect.value
                self.change(i, memory=effect.value)
            elif isinstance(effect, Hold):
                self.change(i, memory=effect.value)
            elif isinstance(effect, Granted):
                if effect.value != self.last:
                    raise Broken(f"client {i} reads {effect.value}, committed was {self.last}")
                self.change(i, holds=effect.ticket)
            elif isinstance(effect, Note):
                raise Broken(f"the honest server was ignored: {effect}")
            elif isinstance(effect, Failed):
                self._expect(effect)
            elif isinstance(effect, Closed):
                self.change(i, memory=None)
            elif not isinstance(effect, Changed | bool | None):
                words.append(effect)
        if not self.program(i).adrift:
            self.send(self.up, i, *words)
        return effects

    def _expect(self, failed: Failed) -> None:
        allowed = {errno.ENOTCONN}
        if self.space.limits.on_death == "raise":
            allowed.add(errno.EOWNERDEAD)
        if self.space.limits.refusing:
            allowed.add(errno.EDEADLK)
        if failed.errno == errno.EOWNERDEAD:
            if not self.owed and not self.space.limits.failovers:
                raise Broken("a death that was not, or was told before")
            self.owed = False
        if failed.errno not in allowed:
            raise Broken(f"{failed}, with a single handle and nothing wrong")

    def tell_server(self, *given: Any) -> None:
        self.server, messages = self.space.servers.run(self.server, given)
        for vmid, word in messages:
            i = vmid - 2
            if isinstance(word, RefuseWait) and not self.space.limits.refusing:
                raise Broken(f"a deadlock on a single handle: {word}")
            if self.clients[i] != DEAD:
                self.send(self.down, i, word)
                there = self.space.channels.things[self.down[i]]
                if sum(kind is RequestDowngrade for kind, _ in there) > MOST_RECALLS:
                    raise Broken(f"too many recalls: {there}")
        if not self.space.is_open(self.server):
            self.last = NEVER_WRITTEN
            self.owed = False

    # ---- the steps

    def arrive_up(self, i: int) -> None:
        word = self.take(self.up, i)
        if word == OPEN:
            self.tell_server("open", i + 2, ID, "", "bytes", self.space.limits.on_death)
            self.send(self.down, i, OPENED)
        elif isinstance(word, Remains):
            self.tell_server("on_gone", i + 2, word)
            self.owed |= self.space.is_known(self.node())
        else:
            self.tell_server("on_message", i + 2, word)

    def arrive_down(self, i: int) -> None:
        word = self.take(self.down, i)
        if word != OPENED:
            self.client(i, "on_message", word)
        elif self.client(i, "opened", ID) == (True,):
            self.change(i, opening=False)
        else:
            self.send(self.up, i, OPEN)

    def lock(self, i: int, thread: int, state: State) -> None:
        self.spend(i, "locks")
        self.client(i, "lock", ID, thread, state, thread, self.space.limits.timed)

    def unlock(self, i: int, thread: int) -> None:
        self.change(i, holds=0)
        self.client(i, "unlock", ID, thread)

    def write(self, i: int, thread: int) -> None:
        self.spend(i, "writes")
        self.change(i, holds=0)
        self.client(i, "unlock", ID, thread, b"%d" % i)

    def withdraw(self, i: int, ticket: object) -> None:
        self.spend(i, "withdrawals")
        self.client(i, "withdraw", ID, ticket)

    def watch(self, i: int) -> None:
        self.spend(i, "watches")
        version = self.space.facts(self.clients[i]).value.version
        self.client(i, "watch", ID, "watch", version)

    def close(self, i: int) -> None:
        self.spend(i, "closes")
        self.client(i, "close", ID)

    def open(self, i: int) -> None:
        self.spend(i, "opens")
        self.change(i, opening=True)
        if not self.program(i).adrift:
            self.send(self.up, i, OPEN)

    def kill(self, i: int, lost: bool) -> None:
        """Dead from one moment to the next; what it has sent arrives first, or is lost."""
        self.kills -= 1
        facts = self.space.facts(self.clients[i])
        # Who has no record has only the baton to say so.
        told = not facts.by_baton or self.program(i).memory is not None
        in_use = facts.using == EXCLUSIVE and told
        remains = Remains(self.program(i).memory, in_use)
        if lost:
            self.up[i] = self.space.empty
        self.clients[i] = DEAD
        self.down[i] = self.space.empty
        self.send(self.up, i, remains)
        self.owed &= self.space.is_known(self.node())  # it may have been the one to tell of it

    def put(self, i: int) -> None:
        """Nobody here uses it: what has been committed lies in memory by then."""
        self.client(i, "put", ID)
        key = i + 2, ID
        if key in DEPOSITS:
            DEPOSITS[key] = DEPOSITS[key]._replace(value=self.program(i).memory)

    def deposed(self, i: int, to: int) -> None:
        """A leader that is no more, and does not know it, takes; who lost it tells the next one."""
        DEPOSITS[i + 2, ID] = DEPOSITS[i + 2, ID]._replace(state=to)

    def lose_leader(self) -> None:
        """What was on its way is lost, but for the news of a death."""
        self.failovers -= 1
        self.tell_server("takeover")
        for i, up in enumerate(self.up):
            deaths = [sent for sent in self.space.channels.things[up] if sent[0] is Remains]
            self.up[i] = self.space.channels.number(tuple(deaths))
            self.down[i] = self.space.empty
            if self.clients[i] != DEAD:
                self.change(i, adrift=True)

    def resume(self, i: int) -> None:
        self.change(i, adrift=False)
        self.client(i, "resume")
        if self.program(i).opening:
            self.send(self.up, i, OPEN)


#: Steps that happen by themselves, sooner or later.
INEVITABLE = {"arrive_up", "arrive_down", "unlock", "resume"}


@dataclass
class Space:
    """All nodes reached within some limits."""

    limits: Limits
    clients: Machines = field(default_factory=Clients)
    servers: Servers = field(default_factory=Servers)
    programs: Numbers = field(default_factory=Numbers)
    channels: Numbers = field(default_factory=Numbers)
    nodes: Numbers = field(default_factory=Numbers)
    #: node -> the node before it, and the step from there
    before: list[tuple[int, tuple[Any, ...]]] = field(default_factory=list)
    #: node -> nodes that inevitable steps lead to
    onward: list[list[int]] = field(default_factory=list)
    steps: int = 0
    deepest: int = 0
    _facts: dict[int, Facts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.empty = self.channels.number(())

    # ---- exploring

    def explore(self) -> None:
        """Take every step from every node, then look at how they hang together."""
        self.nodes.number(self.first())
        self.before.append((0, ()))
        at = 0
        while at < len(self.nodes.things):
            node = self.nodes.things[at]
            onward = []
            for step in self.possible(node):
                after = self.nodes.number(self.take(at, node, step))
                self.steps += 1
                if after == len(self.before):
                    self.before.append((at, step))
                if step[0] in INEVITABLE:
                    onward.append(after)
            self.onward.append(onward)
            at += 1
        self.check_liveness()

    def walk(self, steps: list[tuple[Any, ...]]) -> None:
        """Take these steps alone, one after the other."""
        at = self.nodes.number(self.first())
        self.before.append((0, ()))
        for step in steps:
            node = self.nodes.things[at]
            assert step in self.possible(node)
            before, at = at, self.nodes.number(self.take(at, node, step))
            self.before.append((before, step))

    def take(self, at: int, node: Node, step: tuple[Any, ...]) -> Node:
        name, *args = step
        parts = [list(part) if part.__class__ is tuple else part for part in node]
        MEMORY.clear()
        MEMORY.update(enumerate(node.memory))
        DEPOSITS.clear()
        DEPOSITS.update(node.deposits)
        taken = Step(self, *parts)  # type: ignore[arg-type]
        taken.last = node.last
        try:
            getattr(taken, name)(*args)
            after = taken.node()
            if after not in self.nodes.of:
                self.check(after)
        except Exception as error:
            raise Violation(f"{error!r}\n{self.way(at)}\n{step}") from error
        return after

    def first(self) -> Node:
        """Everybody has opened the handle, and nobody has done anything."""
        limits = self.limits
        search = Search(limits.refusing)
        server = search.server = SyncServer(find_cycle=search)
        MEMORY.clear()
        DEPOSITS.clear()
        if limits.deposits:
            server.deposits = SpaceDeposits()
        if limits.batons:
            # Who declines is served before it is asked once more.
            server.batons, server.moves = SpaceBatons(), 1 + limits.declines
        program = Program(
            limits.locks,
            limits.writes,
            limits.withdrawals,
            limits.opens,
            limits.closes,
            limits.watches,
            False,
            False,
            None,
            0,
        )
        clients = []
        for i in range(len(limits.threads)):
            server.open(i + 2, ID, "", "bytes", limits.on_death)
            me = i + 2 if limits.batons or limits.deposits else 0
            client = SpaceClient(me, limits.declines and not i)
            if limits.deposits:
                client.with_deposits()
            client.opened(ID)
            clients.append(self.clients.add(client))
        count = len(clients)
        channels = (self.empty,) * count
        programs = (self.programs.number(program),) * count
        return Node(
            tuple(clients),
            programs,
            channels,
            channels,
            self.servers.add(server),
            NEVER_WRITTEN,
            False,
            limits.kills,
            limits.failovers,
        )

    def possible(self, node: Node) -> Iterator[tuple[Any, ...]]:
        """Every step that can be taken."""
        for i, client in enumerate(node.clients):
            if node.up[i] != self.empty:
                yield "arrive_up", i
            if client == DEAD:
                continue
            if node.down[i] != self.empty:
                yield "arrive_down", i
            program = self.programs.things[node.programs[i]]
            if program.adrift:
                yield "resume", i
            facts, put = self.facts(client), dict(node.deposits).get((i + 2, ID))
            yield from self.possible_at(i, program, facts)
            if self.limits.deposits and facts.open and put is None:
                yield "put", i
            if program.adrift and put is not None:
                for to in range(State.INVALID, put.state):
                    yield "deposed", i, to
            if node.kills:
                yield "kill", i, False
                yield "kill", i, True
        if node.failovers:
            yield ("lose_leader",)

    def possible_at(self, i: int, program: Program, facts: Facts) -> Iterator[tuple[Any, ...]]:
        if program.opens and not program.opening:
            yield "open", i
        if not facts.open:
            return
        if facts.user:
            yield "unlock", i, facts.user
            if program.writes and facts.using == EXCLUSIVE:
                yield "write", i, facts.user
        elif program.closes:
            yield "close", i
        if program.locks:
            for thread in range(1, self.limits.threads[i] + 1):
                if thread != facts.user and thread not in facts.waiting:
                    yield "lock", i, thread, SHARED
                    yield "lock", i, thread, EXCLUSIVE
        if program.withdrawals:
            for ticket in (*facts.waiting, *facts.watching):
                yield "withdraw", i, ticket
        if program.watches and not facts.watching:
            yield "watch", i

    # ---- what must hold

    def check(self, node: Node) -> None:
        states = []
        put = dict(node.deposits)
        for i, (client, program) in enumerate(zip(node.clients, node.programs, strict=True)):
            if client != DEAD:
                facts = self.facts(client)
                if (i + 2, ID) in put:
                    facts = facts._replace(state=put[i + 2, ID].state)
                states.append(facts.state)
                if facts.user != self.programs.things[program].holds:
                    raise Broken(f"{facts}, granted was {self.programs.things[program]}")
                if facts.state >= SHARED and facts.value != node.last:
                    raise Broken(f"{facts} may read, but committed last was {node.last}")
        states.sort()
        if states[-1:] == [EXCLUSIVE] and any(state > State.INVALID for state in states[:-1]):
            raise Broken(f"EXCLUSIVE beside another: {states}")
        if node.owed and not self.limits.failovers and not self.is_known(node):
            raise Broken("nobody knows of the death any more")

    def check_liveness(self) -> None:
        """Inevitable steps end, in any order, and where they end nobody waits."""
        incoming = [0] * len(self.onward)
        for onward in self.onward:
            for after in onward:
                incoming[after] += 1
        ready = deque(node for node, count in enumerate(incoming) if not count)
        seen = 0
        depth = [0] * len(self.onward)
        while ready:
            at = ready.popleft()
            seen += 1
            if not self.onward[at]:
                self.check_rest(at)
            for after in self.onward[at]:
                depth[after] = max(depth[after], depth[at] + 1)
                incoming[after] -= 1
                if not incoming[after]:
                    ready.append(after)
        self.deepest = max(depth)
        if seen != len(self.onward):
            stuck = next(node for node, count in enumerate(incoming) if count)
            raise Violation(f"messages without end\n{self.way(stuck)}")

    def check_rest(self, at: int) -> None:
        node = self.nodes.things[at]
        put = dict(node.deposits)
        for i, client in enumerate(node.clients):
            facts = None if client == DEAD else self.facts(client)
            here = put.get((i + 2, ID))
            watched = facts and facts.watching and here and here.state < SHARED
            if facts and (not facts.at_rest or watched):
                state = self.clients.numbers.things[client]
                raise Violation(f"somebody waits for ever: {state}\n{self.way(at)}")
        server = self.servers.copy(node.server)
        for handle in server.handles.values():
            known = [row for row in handle.rows.values() if row.recall or row.user or row.waits]
            if handle.queue or known or server.waiting:
                raise Violation(f"the server waits for ever: {server.state()}\n{self.way(at)}")

    # ---- looking at machines

    def facts(self, client: int) -> Facts:
        found = self._facts.get(client)
        if found is None:
            machine = self.clients.copy(client)
            handle = machine._handles.get(ID)
            if handle is None:
                rest = not machine._closing
                found = Facts(False, 0, NEVER_WRITTEN, 0, 0, (), (), False, rest)
            else:
                waiting = tuple(wait.thread for wait in handle.waits or ())
                watching = tuple(handle.watches or ())
                rest = not (waiting or handle.asked or handle.recall or machine._closing)
                rest = rest and (not watching or handle.state >= SHARED)
                own = (handle.state, handle.value, handle.user, handle.using)
                by_baton = handle.baton is not None
                found = Facts(True, *own, waiting, watching, handle.owner_died, rest, by_baton)
            self._facts[client] = found
        return found

    def is_open(self, server: int) -> bool:
        """Whether the handle is there at all."""
        return bool(self.servers.numbers.things[server][1])

    def is_known(self, node: Node) -> bool:
        """Whether anybody has yet to tell of a death, or says so in a message under way."""
        on_its_way = (
            getattr(word, "owner_died", False)
            for channel in (*node.up, *node.down)
            for _, word in self.channels.things[channel]
        )
        at_clients = (self.facts(c).owner_died for c in node.clients if c != DEAD)
        handles = self.servers.numbers.things[node.server][1]
        at_server = any(handle[4] for handle in handles)
        leaving = {
            i + 2
            for i, channel in enumerate(node.up)
            if any(kind in (RequestClose, Remains) for kind, _ in self.channels.things[channel])
        }
        at_server |= any(row[6] for handle in handles for row in handle[6] if row[0] in leaving)
        return at_server or any(at_clients) or any(on_its_way)

    def way(self, at: int) -> str:
        """The steps from the first node to this one, and what is on its way there."""
        steps = []
        node = self.nodes.things[at]
        while at:
            at, step = self.before[at]
            steps.append(step)
        lines = [str(step) for step in reversed(steps)]
        for i in range(len(node.clients)):
            lines.append(f"up {i}: {self.channels.things[node.up[i]]}")
            lines.append(f"down {i}: {self.channels.things[node.down[i]]}")
            if node.clients[i] != DEAD:
                lines.append(f"client {i}: {self.clients.numbers.things[node.clients[i]]}")
        lines.append(f"server: {self.servers.numbers.things[node.server]}")
        return "\n".join(lines)
