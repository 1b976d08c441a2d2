"""What programs do with file locks; and what must hold of locks, seen from those who hold them.

Each byte of each file is watched: from the answer that grants a lock until the call that gives it
up, or the end of its holder, nobody else may be granted what conflicts. Numbers of grants only
grow. When all have come to rest nobody waits, and nothing is held by anybody who is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from libos_ipc.core.codes import Code
from libos_ipc.core.delegations import Entry
from libos_ipc.core.lock_words import (
    EOF,
    NO_WAIT,
    READ,
    UNLOCK,
    WAIT,
    WAIT_TIMED,
    WRITE,
    Ask,
    Kind,
    Row,
)
from libos_ipc.core.lock_words import Owner as LockOwner
from libos_ipc.core.vocabulary import Delegated, InTurns, Recalled

from .threads import Running, Ticket, Wait, never
from .turns import TurnsTwin, TurnTwin

if TYPE_CHECKING:
    from libos_ipc.core.leader import Leader

    from .node import SimNode
    from .world import World

__all__ = ["LAST_BYTE", "LOCK_CODES", "LockHistory", "Locking", "SimSlots"]

LOCK_CODES = (Code.FILE_LOCK_SET, Code.FILE_LOCK_TAKE)
#: Files are small here, so that ranges meet.
LAST_BYTE = 7
FILES = 2
#: Of a slot.
MOST_ENTRIES = 4
_ANY_PID = 2**32 - 1

#: (kind, pid or handle)
Owner = tuple[int, int]


class LockHistory:
    """Who believes to hold what, in one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: (file, FLOCK or not) -> owner -> byte -> type
        self.held: dict[tuple[int, bool], dict[Owner, dict[int, int]]] = {}
        self.sharers: dict[Owner, set[int]] = {}
        #: calls under way: of several at once nobody knows what came last
        self.under_way: dict[tuple[Owner, int], int] = {}
        self.crossed: set[tuple[Owner, int]] = set()
        self.numbers: set[int] = set()
        #: requests that are answered with ECANCELED, if they are answered at all
        self.taken_back: set[Ticket] = set()
        self.last_number: dict[object, int] = {}  # by file

    def on_record(self, ask: Ask, number: int) -> None:
        """A grant is written: its number is new, and the greatest of the file.

        What is read from a slot that was recalled was granted some time ago, in any order.
        """
        if not number:
            return
        cut = not ask.seq and ask.owner.kind != Kind.FLOCK  # in two, by its owner
        assert cut or number not in self.numbers, f"a second grant {number}"
        self.numbers.add(number)
        last = self.last_number.get(ask.file, 0)
        assert number > last or not ask.seq, f"grant {number} of {ask.file} after {last}"
        self.last_number[ask.file] = max(number, last)

    def before(self, owner: Owner, file: int, type: int, first: int, last: int) -> None:
        """A request goes out: what it gives up may be gone from now on."""
        key = owner, file
        self.under_way[key] = self.under_way.get(key, 0) + 1
        if self.under_way[key] > 1:
            self.crossed.add(key)
        flock = owner[0] == Kind.FLOCK
        bytes_of = self.held.get((file, flock), {}).get(owner, {})
        for byte in range(first, last + 1):
            if type == UNLOCK or flock:
                bytes_of.pop(byte, None)
            elif type == READ and byte in bytes_of:
                bytes_of[byte] = READ

    def after(self, owner: Owner, file: int) -> bool:
        """The call is over. Whether it was the only one all the time."""
        key = owner, file
        self.under_way[key] -= 1
        alone = key not in self.crossed
        if not self.under_way[key]:
            self.crossed.discard(key)
        return alone

    def granted(
        self, node: SimNode, owner: Owner, file: int, type: int, first: int, last: int
    ) -> None:
        """The answer has come: nobody else believes what conflicts with it."""
        place = file, owner[0] == Kind.FLOCK
        self._world.say("locked", node.vmid, owner, file, type, first, last)
        for other, bytes_of in self.held.get(place, {}).items():
            for byte in range(first, last + 1):
                clash = other != owner and WRITE in (type, bytes_of.get(byte, type))
                assert not (clash and byte in bytes_of), (
                    f"byte {byte} of {place}: {owner} gets {type}, {other} has {bytes_of[byte]}"
                )
        had = self.held.setdefault(place, {}).setdefault(owner, {})
        had.update(dict.fromkeys(range(first, last + 1), type))
        self.sharers.setdefault(owner, set()).add(node.vmid)

    def share(self, parent: int, child: int) -> None:
        """The child has the parent's open file descriptions, too."""
        for owner, vmids in self.sharers.items():
            if parent in vmids and owner[0] in (Kind.FLOCK, Kind.OFD):
                vmids.add(child)

    def on_vanished(self, vmid: int) -> None:
        """This process holds nothing any more, unless others have what it locked by.

        Of that the journal is believed. A description by which nothing was held at the fork is not
        known to be shared: it is its next locker's, whoever else could lock by it.
        """
        known = self._world.history.shadow.locks.owners
        for owner, vmids in self.sharers.items():
            here = vmid in vmids
            vmids.discard(vmid)
            if not vmids or (here and not known.sharers(LockOwner(*owner)) - {vmid}):
                for owners in self.held.values():
                    owners.pop(owner, None)

    def check_rest(self) -> None:
        """Nobody waits at the leader, and nothing belongs to the gone."""
        leader = self._world.leader
        if leader is None or leader.dead:
            return
        machine = leader.member.leader
        assert machine is not None
        for row in machine.locks.table(self._world.now):
            assert not row.waiting, f"still waits: {row}"
            if row.kind in (Kind.FLOCK, Kind.OFD) and self._is_believed_of_children(row, machine):
                continue
            assert row.kind == Kind.POSIX, f"still held: {row}"
            assert row.vmid in machine.processes, f"held by the gone: {row}"
            assert row.vmid not in self._world.nodes, f"still held: {row}"
        for file, standing in machine.lock_desk.passing.table():
            assert not standing, f"still stand in turns of {file}: {standing}"

    def _is_believed_of_children(self, row: Row, machine: Leader) -> bool:
        """Whether its locker is gone, and only children are left to whom the leader gave it at
        their birth. One that it opened while it forked they do not have; of that the kernel would
        be asked, which this world has none of, and so they have it until they end."""
        owner = LockOwner(row.kind, row.handle)
        believed = machine.locks.sharers(owner)
        truly = self.sharers.get((int(row.kind), row.handle), set())
        born = all(machine.processes[vmid].forked for vmid in believed if vmid in machine.processes)
        return bool(believed) and believed <= self._world.nodes.keys() and born and not truly


class Slot:
    """What native/lock_slot.h is, byte by byte: what its holder locks until it is recalled."""

    def __init__(self) -> None:
        self.closed = True
        #: (kind, handle) -> byte -> (type, number), in the order in which owners came
        self.owners: dict[Owner, dict[int, tuple[int, int]]] = {}
        self.next = self.last = 0

    def set(self, owner: Owner, type: int, start: int, end: int) -> bool:
        """False if it is for the leader."""
        bytes_here = range(start, end + 1)
        clash = any(
            byte in held and WRITE in (type, held[byte][0])
            for other, held in self.owners.items()
            for byte in bytes_here
            if other != owner and type != UNLOCK
        )
        if self.closed or clash:
            return False
        before = {key: dict(held) for key, held in self.owners.items()}
        held = self.owners.setdefault(owner, {})
        for byte in bytes_here:
            held.pop(byte, None)
            if type != UNLOCK:
                held[byte] = type, self.next
        if not held:
            del self.owners[owner]
        if len(self.entries()) > MOST_ENTRIES:
            self.owners = before
            return False
        self.next += type != UNLOCK
        return True

    def entries(self) -> tuple[Entry, ...]:
        """Runs of bytes of one type; the last byte stands for the end of the file."""
        found: list[Entry] = []
        for (kind, handle), held in self.owners.items():
            runs: list[list[int]] = []
            for byte in sorted(held):
                if not runs or runs[-1][-1] != byte - 1 or held[runs[-1][-1]][0] != held[byte][0]:
                    runs.append([])
                runs[-1].append(byte)
            for run in runs:
                type, number = held[run[0]][0], max(held[byte][1] for byte in run)
                last = EOF if kind == Kind.FLOCK else run[-1]
                found.append(Entry(kind, handle, type, run[0], last, number, 1, -1, -1))
        return tuple(found)


class SimSlots:
    """The memory between leader and holders."""

    def __init__(self) -> None:
        self.slots: dict[tuple[int, int], Slot] = {}
        self.turns = TurnsTwin()

    def begin(self, epoch: int, vmid: int, slot: int, first: int, last: int) -> bool:
        there = self.slots[vmid, slot] = Slot()
        there.closed, there.next, there.last = False, first, last
        return True

    def recall(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        self.slots[vmid, slot].closed = True
        return self.look(vmid, slot)

    def look(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        return self.slots[vmid, slot].entries()

    def drop(self, vmid: int) -> None:
        for key in [key for key in self.slots if key[0] == vmid]:
            del self.slots[key]

    def close(self) -> None:
        self.slots.clear()


class Locking:
    """The calls of one node's program."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._world = node.world
        #: handles by which this process may hold something: (kind, handle) -> file
        self.handles: dict[tuple[int, int], int] = {}
        self._last_handle = 0
        #: what forked children may have, too
        self.shared: set[tuple[int, int]] = set()
        #: where we lock alone: (file, FLOCK or not) -> slot
        self.given: dict[tuple[int, bool], Slot] = {}
        #: files that we lock in turns with others
        self.turns: dict[int, TurnTwin] = {}
        self._slots: dict[int, tuple[int, bool]] = {}

    def delegated(self, effect: Delegated) -> None:
        """A file is ours."""
        slot = self._world.slots.slots.get((self._node.vmid, effect.slot))
        if slot is not None:
            place = effect.inode, bool(effect.flock)
            self.given[place] = slot
            self._slots[effect.slot] = place

    def in_turns(self, effect: InTurns) -> None:
        """A file is locked in turns."""
        self.turns[effect.inode] = TurnTwin(self._world.slots.turns.queues[effect.place], effect.me)

    def recalled(self, effect: Recalled) -> None:
        """It is not any more."""
        node = self._node
        self.given.pop(self._slots.pop(effect.slot, (-1, False)), None)
        code, now = Code.FILE_RETURNED, self._world.now
        node.perform(node.member.send(node.member.leader_vmid, code, (effect.slot,), now))

    def _by_ourselves(self, owner: Owner, file: int, type: int, bounds: tuple[int, int]) -> bool:
        """Lock or unlock in a slot, if that can be."""
        slot = self.given.get((file, owner[0] == Kind.FLOCK))
        if slot is None or owner in self.shared or self._node.goodbye_said:
            return False
        history = self._world.history.locks
        mine = (owner[0], 0) if owner[0] == Kind.POSIX else owner
        done = slot.set(mine, type, *bounds)
        alone = history.after(owner, file) if done else False
        if done and type != UNLOCK and alone:
            history.granted(self._node, owner, file, type, *bounds)
        return done

    def random_call(self) -> Running:
        """Lock or unlock something."""
        rng = self._world.rng
        file = rng.randrange(FILES)
        first = rng.randint(0, LAST_BYTE)
        bounds = first, rng.randint(first, LAST_BYTE)
        kind = rng.choice((Kind.POSIX, Kind.FLOCK, Kind.OFD, *[Kind.FAIR] * 3))
        known = [key for key, place in self.handles.items() if key[0] == kind and place == file]
        handle = 0
        if kind != Kind.POSIX:
            handle = rng.choice(known)[1] if known and rng.random() < 0.7 else self._new_handle()
        type = rng.choice((READ, WRITE, WRITE, UNLOCK))
        if kind == Kind.FLOCK:
            bounds = 0, LAST_BYTE
        if kind == Kind.FAIR and type != UNLOCK:
            handle = self._new_handle()
        wait = rng.choice((NO_WAIT, WAIT, WAIT_TIMED))
        patience = rng.choice((0.01, 0.3, 2.0)) if wait == WAIT_TIMED else None
        return self.set(
            (kind, handle or self._node.identity.pid), file, type, bounds, wait, patience
        )

    def burst(self) -> Running:
        """Lock and unlock the same again and again, as programs do, until it is ours alone."""
        rng = self._world.rng
        kind, file = rng.choice(list(Kind)), rng.randrange(FILES)
        owner = (int(kind), self._node.identity.pid if kind == Kind.POSIX else self._new_handle())
        for _ in range(rng.randint(2, 12)):
            if self._node.goodbye_said:
                return
            first = 0 if kind == Kind.FLOCK else rng.randint(0, LAST_BYTE)
            bounds = first, LAST_BYTE if kind == Kind.FLOCK else rng.randint(first, LAST_BYTE)
            if kind == Kind.FAIR:
                owner = (int(kind), self._new_handle())
            type = rng.choice((READ, WRITE, WRITE))
            yield from self.set(owner, file, type, bounds, rng.choice((NO_WAIT, WAIT_TIMED)), 0.3)
            if rng.random() < 0.5:
                yield Wait(never, rng.random() * self._world.knobs.gap_s)
            if rng.random() < 0.9:
                part = bounds if rng.random() < 0.7 else (0, LAST_BYTE)
                yield from self.set(owner, file, UNLOCK, part, NO_WAIT, None)

    def contend(self) -> Running:
        """Lock a whole file for itself, again and again."""
        rng, file = self._world.rng, self._world.rng.randrange(FILES)
        for _ in range(rng.randint(4, 16)):
            if self._node.goodbye_said:
                return
            owner = (int(Kind.FAIR), self._new_handle())
            wait, patience = rng.choice(((WAIT, None), (WAIT_TIMED, 0.3), (NO_WAIT, None)))
            yield from self.set(owner, file, WRITE, (0, LAST_BYTE), wait, patience)
            yield Wait(never, rng.random() * self._world.knobs.gap_s)
            yield from self.set(owner, file, UNLOCK, (0, LAST_BYTE), NO_WAIT, None)

    def _take_turns(self, owner: Owner, file: int, type: int, wait: int) -> Running:
        """Lock or unlock in turns; True at the end if the leader need not be asked."""
        turn, history, node = self.turns.get(file), self._world.history.locks, self._node
        if turn is None or node.goodbye_said or owner[0] != Kind.FAIR or type == READ:
            return False
        if type == UNLOCK:
            done = turn.leave(owner[1])
        else:
            number = turn.take(owner[1], 1, wait, wait != NO_WAIT)
            for _ in range(self._world.rng.randint(0, 4)):
                if number >= 0 or node.goodbye_said:
                    break
                yield Wait(never, self._world.rng.random() * self._world.knobs.gap_s)
                number = turn.take(owner[1], 1, wait, True)
            if number < 0 and wait == WAIT_TIMED and turn.leave(owner[1]):
                history.after(owner, file)
                return True
            done = number > 0
        if done and history.after(owner, file) and type != UNLOCK and not node.goodbye_said:
            history.granted(node, owner, file, type, 0, LAST_BYTE)
        return done

    def _new_handle(self) -> int:
        self._last_handle += 1
        return self._node.vmid << 32 | self._last_handle

    def set(
        self,
        owner: Owner,
        file: int,
        type: int,
        bounds: tuple[int, int],
        wait: int,
        patience_s: float | None,
    ) -> Running:
        """One lock call: it is taken back if the time is over before the answer."""
        node, history = self._node, self._world.history
        kind, id = owner
        history.locks.before(owner, file, type, *bounds)
        if kind != Kind.POSIX:
            self.handles[kind, id] = file
        if self._by_ourselves(owner, file, type, bounds):
            if not self._world.faulty and type != UNLOCK:
                yield from self.set(owner, file, UNLOCK, (0, LAST_BYTE), NO_WAIT, None)
            return
        whole = kind == Kind.FAIR and bounds == (0, LAST_BYTE)
        if whole and (yield from self._take_turns(owner, file, type, wait)):
            return
        if whole:
            bounds = 0, EOF
        code = Code.FILE_LOCK_TAKE if kind == Kind.FAIR else Code.FILE_LOCK_SET
        pid = _ANY_PID if kind == Kind.OFD else node.identity.pid
        family, handle = (2 if kind == Kind.FLOCK else 1), (0 if kind == Kind.POSIX else id)
        fields = (family, type, *bounds, pid, handle, wait, b"f", 1, file, 1)
        leader, now = node.member.leader_vmid, self._world.now
        ticket = history.ticket(node, leader, code)
        seq, effects = node.member.request(leader, code, fields, ticket, now)
        node.perform(effects)
        answered = yield Wait(ticket.settled, patience_s, ticket)
        if not answered:
            if node.goodbye_said:
                return
            history.locks.taken_back.add(ticket)
            back = node.program._ask(Code.FILE_LOCK_WITHDRAW, seq)
            yield Wait(back.settled, None, back)
            if back.error is not None or back.payload == (0,):
                node.member.calls.withdraw(seq)
                ticket.state = "withdrawn"
                history.locks.after(owner, file)
                return
            yield Wait(ticket.settled, None, ticket)
        alone = history.locks.after(owner, file)
        if code == Code.FILE_LOCK_TAKE and type != UNLOCK and ticket.payload == (0, 0):
            yield from self.set(owner, file, type, (0, LAST_BYTE), wait, patience_s)
            return
        if ticket.error is None and type != UNLOCK and not node.goodbye_said:
            if alone:
                history.locks.granted(node, owner, file, type, bounds[0], min(bounds[1], LAST_BYTE))
            if not self._world.faulty:
                yield from self.set(owner, file, UNLOCK, (0, LAST_BYTE), NO_WAIT, None)

    def release_all(self) -> Running:
        """Unlock everything that may be held."""
        for (kind, handle), file in list(self.handles.items()):
            yield from self.set((kind, handle), file, UNLOCK, (0, LAST_BYTE), NO_WAIT, None)
        owner, history = (int(Kind.POSIX), self._node.identity.pid), self._world.history.locks
        for file in range(FILES):
            history.before(owner, file, UNLOCK, 0, LAST_BYTE)
        yield from self._node.program.ask(Code.FILE_LOCK_CLEAR_PID, owner[1])
        for file in range(FILES):
            history.after(owner, file)
