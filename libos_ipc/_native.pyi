"""What has to be fast: the codec of the wire, the table of requests outstanding, the accounts of a
link.

Nothing here blocks or keeps a buffer longer than the call. An int that does not fit its field
raises `OverflowError`, anything but an int `TypeError`; what is wrong with bytes that came from
outside raises `Malformed`.
"""

from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, Self, TypeVar, final, overload

from typing_extensions import Buffer

from libos_ipc.core.sync_deposits import Deposit as _Deposit
from libos_ipc.core.sync_words import Baton as _Baton
from libos_ipc.core.sync_words import State, Value
from libos_ipc.core.vocabulary import Body, Message, Outgoing

_T = TypeVar("_T")

HEADER_SIZE: Final = 17
ENVELOPE_SIZE: Final = 16

class Malformed(ValueError):
    """Bytes from outside that are not what they should be."""

def pack_message(code: int, seq: int, payload: Buffer = b"") -> bytes:
    """Header and payload in one bytes object."""

def pack_header(code: int, seq: int, payload_size: int) -> bytes:
    """The header alone, for a payload that follows in a frame of its own."""

def unpack_message(message: Buffer, max_message: int) -> tuple[int, int, bytes]:
    """(code, seq, payload) of a whole message; the payload is a copy."""

def unpack_header(frame: Buffer, payload_size: int, max_message: int) -> tuple[int, int]:
    """(code, seq) of a message whose payload came in a frame of its own.

    `max_message` bounds header and payload together.
    """

def pack_envelope(number: int, acked: int) -> bytes:
    """The envelope of a message: its number on the link, and the last number received."""

def unpack_envelope(frame: Buffer, /) -> tuple[int, int]:
    """(number, acked) of an envelope."""

LARGE: Final = 16384

def pack_frames(
    number: int, acked: int, code: int, seq: int, payload: Buffer, /
) -> tuple[bytes, bytes] | tuple[bytes, bytes, Buffer]:
    """The frames of a message on a link: envelope, header and payload.

    A payload of LARGE bytes or more is a frame of its own, and not copied.
    """

def unpack_frames(frames: list[bytes], max_message: int, /) -> tuple[int, int, int, int, bytes]:
    """(number, acked, code, seq, payload) from two or three frames.

    `max_message` bounds header and payload together.
    """

@final
class Layout:
    """The fixed fields of a payload, and the most bytes that may follow them.

    `fields` are at most 16 letters of BHIiQq, with the meaning they have in `struct` after '<'.
    """

    def __new__(cls, fields: str, tail: int = 0) -> Layout: ...
    @property
    def fields(self) -> str:
        """The letters of the fixed fields."""
    @property
    def size(self) -> int:
        """Bytes of the fixed fields."""
    @property
    def tail(self) -> int:
        """Most bytes that may follow the fixed fields."""
    def pack(self, *fields: int, tail: Buffer = b"") -> bytes:
        """The payload of these fields and these bytes; `ValueError` for a tail too long."""
    def unpack(self, payload: Buffer, /) -> tuple[Any, ...]:
        """The fields, and after them the tail as bytes if the layout has one."""

@final
class Outstanding:
    """The requests that are not answered yet: number, peer and ticket.

    Whoever takes a ticket out is the only one to get it. Every method is O(1), or O(tickets
    returned), and a failing one leaves the table as it was. A ticket dropped by the table may
    call back into it.
    """

    def __new__(cls) -> Outstanding: ...
    @property
    def last(self) -> int:
        """The last sequence number given out, 0 before the first."""
    def __len__(self) -> int: ...
    def add(self, peer: int, ticket: object) -> int:
        """Enter a request to this peer; its sequence number, from 1 and never used twice."""
    def take(self, seq: int, peer: int) -> Any:
        """Take out the ticket of a request that this peer answers.

        None if there is no such request, or another peer was asked: then it stays.
        """
    def discard(self, seq: int, /) -> Any:
        """Withdraw a request; its ticket, or None if there is no such request."""
    def peer_of(self, seq: int, /) -> int | None:
        """The peer a request was asked of, or None if there is no such request."""
    def fail_peer(self, peer: int, /) -> list[Any]:
        """Take out the tickets of all requests to this peer, in the order in which they were
        given to it."""
    def of_peer(self, peer: int, /) -> list[tuple[int, Any]]:
        """Number and ticket of each request to this peer, in that order. They stay."""
    def move(self, seq: int, peer: int) -> bool:
        """Another peer is to answer this request. False if there is no such request."""
    def drain(self) -> list[Any]:
        """Take out all tickets, oldest first."""

def exchange_word(memory: Buffer, offset: int, expected: int, desired: int, /) -> int:
    """The 64-bit word that was at this offset of a writable buffer; `desired` is there now, if that
    was `expected`. One step, as all processes that share the memory see it. ValueError where no
    aligned word is."""

FIRST_PROBE_S: Final = 0.25
#: What `Ledger.receive` found.
NEXT: Final = 1
DRAINED: Final = 2

class LocalIds:
    """One process's own IDs; `core/local_ids.py` says what for."""

    #: ranges asked for, and given back, at a time
    batch: int
    #: whether ranges are on their way
    asked: bool

    def __new__(cls, *, quarantine_s: float, reserve: int = 1) -> Self: ...
    def new(self, now: float, /) -> int | None:
        """The next ID, or None: ask the leader for a range first, and `grant` it."""

    def release(self, id: int, now: float, /) -> list[tuple[int, int]] | None:
        """Take an ID back; the ranges to give back to the leader now.

        None if it is not of our ranges; ValueError if it is, but not handed out.
        """

    def surplus(self) -> list[tuple[int, int]]:
        """Part with all that is beyond the reserve: ranges to give back."""

    def owns(self, id: int, /) -> bool:
        """Whether the ID is in one of our ranges, handed out or not."""

    def in_use(self, id: int, /) -> bool:
        """Whether the ID was handed out here and not released since."""

    def grant(self, start: int, end: int, /) -> None:
        """A range has come. ValueError if it is none, or overlaps ours."""

    def low(self) -> bool:
        """Whether it is time to ask for more."""

    def ranges(self) -> list[tuple[int, int]]:
        """The bounds of all ranges, ascending."""

    def drain(self) -> list[tuple[int, int]]:
        """Give up all ranges, whatever of them is in use."""

    def moved_away(self, id: int, /) -> None:
        """The ID belongs to another process now: its range splits."""

    def check(self) -> None:
        """Assert the invariants."""

    def offer(self, lock: Lock, own: int, /) -> None:
        """Let `take` and `put` work while nobody holds this lock. `own` is the ID that the
        process itself has."""

    def withdraw(self) -> None:
        """They work no more."""

    def take(self) -> int | None:
        """The next ID, or None if that is Python's business."""

    def put(self, id: object, /) -> bool:
        """Release an ID. False if that is Python's business."""

class Ledger:
    """The counts of one end of a link, and the messages that it keeps. Sizes are bytes.

    Made to be a base class. Not thread-safe: its owner holds a lock.
    """

    @property
    def sent(self) -> int:
        """Messages numbered so far."""
    @property
    def acked(self) -> int:
        """The number up to which the peer has everything."""
    @property
    def kept(self) -> list[tuple[int, Outgoing]]:
        """Numbers and messages not acknowledged, in order. Costs what it returns."""
    sent_bytes: int
    credited: int
    delivered: int
    announced_ack: int
    received_bytes: int
    consumed: int
    announced_credit: int
    #: when to ask the peer what it has, and how long to wait after that; seconds
    probe_at: float
    probe_interval: float
    #: the peer waits for room
    starving: bool
    def stamp(self, message: Outgoing, size: int, now: float, /) -> int:
        """Number a message and keep it until it is acknowledged."""
    def receive(self, number: int, acked: int, size: int, now: float, /) -> int:
        """Enter what a message says of the link; `number` is 0 for one without.

        NEXT if it is the next in order, DRAINED if it acknowledges the last that was kept.
        ValueError, and nothing has changed, if it acknowledges what was never sent.
        """
    def acknowledge(self) -> int:
        """The acknowledgement that goes out with the next message, whatever it is."""
    def ack_due(self, every: int, /) -> bool:
        """Whether `every` messages have arrived since the peer was last told."""
    def has_room(self, size: int, limit: int, /) -> bool:
        """Whether `size` more bytes stay within `limit`; one message alone always may go."""
    def consume(self, size: int, quantum: int, /) -> bool:
        """The program has taken up `size` bytes. True if the peer should hear of it.

        That is when `quantum` bytes or more are news to it, or it waits and can be told of all.
        """

@final
class Port:
    """A socket of ZeroMQ, used a whole message at a time. One thread at a time."""

    def __new__(cls, module: str, socket: int) -> Port:
        """The socket at this address, by the ZeroMQ that the extension module of this path uses.

        OSError if that is not loaded, or its ZeroMQ cannot be reached through it.
        """
    def receive(
        self, known: dict[bytes, _T], /
    ) -> tuple[_T, list[bytes]] | tuple[bytes, bytes, int, list[bytes]] | None:
        """The next message, None if there is none now.

        (known[route], frames), or, from a route that is not known, the route, its user ID, its
        descriptor, and the frames. Of more frames than a message may have, the first few.
        """
    def send(self, route: Buffer, frames: tuple[Buffer, ...], /) -> bool:
        """Queue a message of these frames to this route. False if it cannot go."""
    def close(self) -> None:
        """Use the socket no more: to be called before it is closed. ValueError from then on."""

def tgkill(process: int, thread: int, sig: int, /) -> None:
    """Send a signal to one thread of a process, all by the kernel's numbers. OSError."""

def same_file(process: int, fd: int, other_process: int, other_fd: int, /) -> bool:
    """Whether two descriptors, of one process or of two, are of one open file description.

    OSError: ENOSYS or EPERM where the kernel does not tell, EBADF or ESRCH where there is no such.
    """

def ignore_signal(sig: int, /) -> None:
    """Have the kernel drop this signal, in any thread, whatever Python knows of it. OSError."""

def block_signals(mask: int, /) -> int:
    """Leave these signals (bit n - 1 for number n) to other threads, beside those that the calling
    thread leaves to them already. The mask until now."""

def children() -> bytes:
    """What the kernel lists of the calling thread's children: their OS pids, in decimal, each with
    a space behind it. OSError."""

def note_process(page: Buffer, /) -> None:
    """Write the number of this process, as a native int64, into the first eight bytes there."""

def notify(fd: int, /) -> None:
    """Add one to this eventfd, which does not block, and go on at once: who is woken by it has the
    interpreter lock when the calling thread lets go of it. OSError."""

def set_blocked(mask: int, /) -> int:
    """Leave these signals to other threads, and no others. The mask until now."""

@final
class Descriptor:
    """A file descriptor, close-on-exec, that is closed with this object: no signal handler can come
    between a number and its owner."""

    def __new__(cls, fd: int, lowest: int | None = None) -> Descriptor:
        """A duplicate of `fd`, with a number from `lowest` on where there are so many; without
        that an O_PATH descriptor, which only keeps the inode. OSError."""
    @classmethod
    def open(cls, path: str | bytes, flags: int, /) -> Descriptor:
        """What `os.open` gives for these flags; a new file has mode 0600. OSError."""
    def fileno(self) -> int:
        """Its number, -1 once closed."""
    def close(self) -> None:
        """Close it; may block as close(2) does. A second time does nothing."""

SLOT_BYTES: Final[int]
#: What `Delegation.set` says besides a number: the leader has the file by now; another owner is in
#: the way; there is no room, or no number left.
GONE: Final[int]
BUSY: Final[int]
FULL: Final[int]

@final
class Delegation:
    """A slot in shared memory by which one process locks a file alone; see native/lock_slot.h.

    `memory` is kept until `close`. Nothing blocks. The holder uses `set`, the leader the rest.
    """

    def __new__(cls, memory: Buffer, offset: int) -> Delegation:
        """The slot at this offset, a multiple of 8. ValueError if it does not lie in the memory."""
    def set(
        self,
        kind: int,
        handle: int,
        type: int,
        start: int,
        end: int,
        thread: int,
        descriptor: int,
        duplicate: int,
        /,
    ) -> int:
        """Lock a range, or unlock it (type 2): the number of the grant, 0 for unlocking; or, with
        nothing changed, GONE, BUSY (another owner is in the way) or FULL."""
    def begin(self, first: int, last: int, /) -> None:
        """Give an empty table to the holder, with these numbers for its grants."""
    def recall(self) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """Take the file back: the next number, and what is locked, as the holder has written it.

        That is (kind, handle, type, start, end, number, thread, descriptor, duplicate) each.
        """
    def look(self) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """What `recall` would find, while the holder goes on."""
    def close(self) -> None:
        """Let go of the memory. ValueError from all methods from then on."""

@final
class QuickFiles:
    """POSIX locks of files that this process has to itself, by descriptor; see
    native/quick_files.h. `QuickCall` sets them."""

    def offer(self, fd: int, device: int, inode: int, slot: Delegation, /) -> bool:
        """From now on lock this file by this descriptor in this slot. False if there are too many
        already; ValueError if the slot is closed."""
    def forget(self, device: int, inode: int, /) -> None:
        """Lock this file here no more."""
    def clear(self) -> None:
        """Lock nothing here any more."""

@final
class QuickFlocks:
    """Files locked by `flock` that this process has to itself; see native/quick_flocks.h.
    `QuickCall` sets them."""

    turn: int

    def __new__(cls, numbers: Iterator[int], lowest: int) -> QuickFlocks:
        """Handles are made of the numbers, duplicates are numbered from `lowest` on."""
    def offer(
        self,
        turn: int,
        device: int,
        inode: int,
        slot: Delegation,
        base: int,
        others: tuple[Descriptor, ...],
        /,
    ) -> bool:
        """From now on lock this file in this slot, by handles from `base` on, but not by
        descriptions of which `others` are duplicates. False if there are too many already, or all
        has been withdrawn since that turn; ValueError if the slot is closed."""
    def withdraw(self, device: int, inode: int, /) -> list[tuple[int, int, Descriptor, int, int]]:
        """Lock this file here no more: (handle, fd, duplicate, device, inode) of each description
        of it that has a lock. The same for all files when there is no room for more."""
    def withdraw_all(self) -> list[tuple[int, int, Descriptor, int, int]]:
        """The same for all files. Offers that were begun before that fail."""
    def forget(self, handle: int, /) -> None:
        """This one, which was withdrawn, is known elsewhere now."""

@final
class QuickCall:
    """`lockf` or `flock` that needs no Python where it can; see native/quick_call.h."""

    def __new__(cls, function: Callable[..., None], groups: list[Any], files: str) -> QuickCall:
        """`function` in the whole; the last of `groups` has a QuickFiles or QuickFlocks by the
        name `files`."""
    def __call__(self, *args: Any, **kwargs: Any) -> None: ...

class Record:
    """The writer's end of a record in a slab; see native/record.h.

    Not thread-safe. Does not block. TypeError, ValueError.
    """

    def __new__(cls, slab: Any, at: int, capacity: int, number: int = 0) -> Self: ...
    def publish(self, version: int, body: Buffer, crc: int, /) -> None:
        """Commit a value: its bytes with what stands before them, and their CRC-32."""
    def set_use(self, in_use: bool, /) -> None:
        """Whether somebody is between lock and unlock."""
    def release(self) -> None:
        """Let go of the memory."""

BATON_BYTES: Final[int]
TURNS_STRIDE: Final[int]
MOST_TURNS: Final[int]  #: Processes that take turns with one file

@final
class Turns:
    """A process's end of turns, or the leader's; see native/turns.h.

    They lie at this index of the memory, in strides of TURNS_STRIDE; `me` is the number of the
    process's turn, 0 for the leader. Only `take` blocks. The memory is kept until `release`.
    """

    def __new__(cls, memory: Buffer, index: int, me: int) -> Turns:
        """ValueError if they do not lie in the memory."""
    def take(self, handle: int, thread: int, wait: int, seconds: float, /) -> int:
        """Take the lock for this acquisition: the number of the grant; 0 if it is not to be had
        here; -1 if it waits still, after so long or a moment, or where the leader knows of it."""
    def leave(self, handle: int, /) -> bool:
        """Give the lock back, or wait for it no more. False if that is for the leader."""
    def ended(self) -> bool:
        """Whether they are no more."""
    def begin(self, queue: tuple[tuple[int, int, int, int], ...], last: int, /) -> None:
        """The leader, in memory that was never used: these are in the queue, as 1, 2, …, each with
        (handle, thread, wait, number), and the first has the lock under its number; those up to
        the last may be given. ValueError for none or more than MOST_TURNS."""
    def look(self) -> tuple[bool, tuple[tuple[int, int, int, int, int], ...]]:
        """Whether the head has the lock; and all in the queue, the head first: (whose turn,
        handle, thread, wait, number) as its process has written it."""
    def end(self) -> tuple[bool, tuple[tuple[int, int, int, int, int], ...]]:
        """The same, and nobody changes it any more. Who waits is woken."""
    def release(self) -> None:
        """From now on it is as if they had ended."""

BATON_STRIDE: Final[int]

@final
class Baton:
    """A process's end of a baton, or the leader's; see native/baton.h. One step each.

    Does not block. TypeError, ValueError.
    """

    @property
    def me(self) -> int:
        """VMID of the process whose baton this is."""
    def __new__(cls, memory: Any, index: int, number: int, me: int) -> Self: ...
    def take(self) -> tuple[int, bytes] | None:
        """Take EXCLUSIVE: (version, bytes), or None if it is not to be had."""
    def give(self, version: int = 0, data: bytes | None = None, /) -> bool:
        """Give EXCLUSIVE back, with a new value if there is one. False if the baton was ended:
        nothing is committed."""
    def begin(self, version: int, data: bytes, holder: int, /) -> int:
        """The leader, in a place that is in no use: begin, reserved for this process, under a
        number that is returned; 0 when the place has had its last."""
    def reserve(self, holder: int, /) -> bool:
        """The leader: reserve EXCLUSIVE for this process. False if it is not free."""
    def ended(self) -> bool:
        """Whether it has been ended."""
    def end(self) -> tuple[int, bool, tuple[int, bytes]] | None:
        """End it, if that has not happened: (who has EXCLUSIVE, or 0; whether it is in use;
        (version, bytes)); None if the place has another number by now."""
    def release(self) -> None:
        """Let go of the memory: from now on it is as if it were ended."""

DEPOSIT_BYTES: Final[int]
NO_SLAB: Final[int]
DEPOSIT_CELLS: Final[int]
DEPOSIT_PROBES: Final[int]

@final
class Deposit:
    """What this process has of a handle, for the leader to take; see native/deposit.h.

    One step each. Does not block. TypeError, OverflowError, ValueError.
    """

    def __new__(cls, table: Any, index: int, id: int, epoch: int) -> Self: ...
    def put(self, state: int, over: int, record: Record | None, /) -> None:
        """This may be taken from us, until we take it back, with the value in this record; all
        waits have ended up to the number `over`."""
    def take_back(self, state: int, /) -> bool:
        """Nothing may be taken any more. False if we have less than this by now."""
    def left(self, state: int, /) -> int:
        """How much of this we have now."""
    def release(self) -> None:
        """Let go of the memory, as it is: nothing is put any more."""

def find_deposit(table: Any, id: int, epoch: int, state: int, /) -> int | None:
    """In which slab the value is of what is put there, NO_SLAB for none; None if this state is not
    put."""

def lower_deposit(
    table: Any, id: int, epoch: int, state: int, slab: int, to: int, /
) -> tuple[int, int] | None:
    """Leave only this of it, if it is put there still, with its value in that slab: at which byte
    of it, -1 for nowhere, and up to which number all waits have ended there; None if it is not."""

class HandleCell:
    """What a process has of a sync handle: the base of `LocalHandle`; see native/handle_cell.h.

    Not thread-safe: whoever steps the machine holds a lock.
    """

    opened: int
    state: int
    user: int
    using: int
    recall: int
    told_user: int
    #: of the last wait for the lock
    number: int
    value: Value
    #: committed here, after the last grant
    own: bool
    #: the next one to lock is to be told
    owner_died: bool
    waits: deque[Any] | None
    watches: dict[object, int] | None
    #: where values are committed, if that is known
    record: Record | None
    #: by which EXCLUSIVE is taken and given, if there is one
    baton: _Baton | None
    #: where the leader may take it while it is not used, if there is such a place
    deposit: _Deposit | None
    def __new__(cls, *args: object, **kwargs: object) -> Self: ...
    def lock_now(self, agent: int, state: int, /) -> bool:
        """Get the lock, if that takes neither waiting nor a word."""
    def unlock_now(self, agent: int, /) -> bool:
        """Give up the lock, the value as it is, if nobody is to be told."""
    def is_idle(self) -> bool:
        """Whether we have something that nobody here uses, with nobody to be told of anything."""

class QuickHandle:
    """What of a sync handle needs no Python: the base of `SyncHandle`; see native/quick_handle.h.

    Calls `_lock`, `_unlock`, `_decode(value)` and `_give_up(agent)` of the subclass where it must
    be so; its blocks call `_lock_for_block(state, timeout)`, `_changed(before, value)` and
    `_leave(agent, data)` too.
    """

    _current: Value
    @property
    def _known(self) -> Value | None: ...
    @property
    def _decoded(self) -> Any: ...
    def __new__(cls, *args: object, **kwargs: object) -> Self: ...
    def _shape(
        self,
        section: type[QuickSection],
        box: type[QuickBox],
        plain: type | None,
        encode: Callable[[Any], bytes] | None,
        limit: int,
        /,
    ) -> None:
        """The types of blocks and boxes; the type of the values if they are plain, else None, and
        what encodes them; and how many bytes of one may be committed."""
    def _bind(self, cell: HandleCell, exchange: Exchange, /) -> None:
        """The handle is open: lock and unlock in this cell, if a look at the exchange says that no
        step is under way."""
    @property
    def _user(self) -> int:
        """Who uses the handle here; 0 for nobody, or nobody known."""
    def _unbind(self) -> None:
        """The handle is closed: everything is the subclass's."""
    def _know(self, value: Value, decoded: object, /) -> None:
        """This is what this value decodes to, each time."""
    def lock(self, state: State, timeout: float | None = None) -> Any: ...
    def unlock(self, value: object = ...) -> None: ...
    def shared(self, timeout: float | None = None) -> Any: ...
    def exclusive(self, timeout: float | None = None) -> Any: ...

class QuickBox:
    """What an exclusive block is given: the base of `Box`."""

    value: Any
    def __init__(self, value: Any) -> None: ...

class QuickSection:
    """A block in which a handle is locked: the base of `Section`; see native/section.h."""

    def __new__(cls, handle: QuickHandle, state: int, timeout: float | None = None) -> Self: ...
    @property
    def _handle(self) -> Any: ...
    @property
    def _state(self) -> int: ...
    @property
    def _timeout(self) -> float | None: ...
    def __enter__(self) -> Any: ...
    def _entered(self, value: Any, agent: int, /) -> Any:
        """The handle has been locked by this agent: what the block is to have."""
    def __exit__(self, kind: object, error: object, trace: object, /) -> None:
        """Commit, unless the block has raised, and unlock."""

class QuickLock:
    """What of a file lock needs no Python: the base of `FileLock`; see native/quick_lock.h.

    `__enter__` and `__exit__` call `acquire()` and `release()` of the subclass where it must be so.
    """

    def __new__(cls, *args: object, **kwargs: object) -> Self: ...
    def _offer(
        self,
        slot: Delegation | Turns,
        path: bytes,
        numbers: Iterator[int],
        base: int,
        file: tuple[int, int],
        what: tuple[int, int, int],
        keeper: object,
        timeout: float | None,
        /,
    ) -> None:
        """From now on lock `what`, type and range, in this slot, as long as the path leads to the
        file of this device and inode. Handles are base + number; the keeper is kept for as long as
        anything is offered or held. In turns, for a whole file, it waits for a moment, and no
        longer than the timeout."""
    def _withdraw(self) -> None:
        """Nothing is offered any more, until the next offer."""
    def _take(self, timeout: float | None = None, /) -> bool:
        """Lock quickly, if that can be; None for the timeout that was offered. Where the answer is
        False, it may wait in turns still: see `_asked`."""
    def _give(self) -> bool:
        """Unlock what was locked quickly, if that can be."""
    def _take_over(self) -> tuple[int, int, Any]:
        """(handle, number, keeper) of what is held quickly, for the caller to unlock and keep: it
        is not given back quickly any more. The same again until `_taken_over`. ValueError if that
        is nothing."""
    def _taken_over(self) -> None:
        """It is the caller's: nothing is held quickly, and nothing offered."""
    def _settled(self) -> None:
        """Who waited in turns does so no more, or waits at the leader."""
    @property
    def _quick(self) -> int:
        """The number of the grant of what is held quickly, 0 for nothing."""
    @property
    def _mine(self) -> int:
        """The same of what this thread holds."""
    @property
    def _waiting(self) -> int:
        """The handle of an acquisition that waits in this moment, 0 for none."""
    @property
    def _asked(self) -> tuple[int, int, int] | None:
        """(handle, device, inode) of this thread's acquisition that may wait in turns still."""
    @property
    def _until(self) -> float | None:
        """Until when, of `time.monotonic`, that acquisition waits; None for no such time."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

SEAT: int
PORTER: int
BELL_LINES: int

@final
class Shared:
    """Memory behind a memfd that is sealed against a change of its size: new, or what lies at
    `path`. OSError. What was made has a descriptor until `close`, which leaves it mapped."""

    def __init__(self, size: int, path: str | None = None) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Doorbell:
    """What wakes this process when others write to it. `sleep` blocks, as SEAT or PORTER, one
    thread each; it looks for `spin` seconds before, where that is worth while, and handles
    signals. After it, ask `take` (or the exchange) until it gives nothing."""

    def __init__(self, memory: Shared, spin: float = 0) -> None: ...
    def sleep(self, who: int, deadline: float | None, /) -> bool: ...
    def sit(self) -> None: ...
    def stand(self) -> bool: ...
    def take(self) -> list[int]: ...
    def rest(self) -> None: ...
    def again(self, line: int, /) -> None: ...
    def nudge(self, who: int, /) -> None: ...

@final
class Lock:
    """What threading.Lock is, and the exchange can look at. In a forked child as it was."""

    def __init__(self) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *exc: object) -> None: ...

@final
class Landing:
    """Where tickets land, settled, for an event loop, which is woken by an eventfd if it is not
    `attending`. `take` adds them to a list."""

    attending: bool
    @property
    def landed(self) -> int: ...
    def __init__(self) -> None: ...
    def take(self, into: list[Ticket], /) -> None: ...
    def call(self) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...

@final
class Ticket:
    """A request that one thread waits for, or the coroutine of a future; settled once, by any
    thread. `wait` blocks at most `timeout` seconds and handles signals. `number` is set where the
    exchange has sent it."""

    @overload
    def __init__(self) -> None: ...
    @overload
    def __init__(self, landing: Landing, future: Future[Body]) -> None: ...
    @property
    def number(self) -> int: ...
    @property
    def future(self) -> Future[Body]: ...
    def resolve(self, payload: Body, /) -> None: ...
    def fail(self, error: BaseException, /) -> None: ...
    def settled(self) -> bool: ...
    def succeeded(self) -> bool: ...
    def wait(self, timeout: float | None, /) -> bool: ...
    def result(self) -> Body:
        """The answer; or the error raised, which the ticket then has no more."""

@final
class Exchange:
    """The way of a message by a lane, or a connection, without Python. Not in a forked child.

    `call` blocks and handles signals: True when the ticket is settled, False when it is too late,
    None if nothing was sent. `ask` and `post` are for the program's messages, as they are: None
    and False if they have to be looked at and sent by other means. `serve` blocks, handles signals
    and calls handlers, until the caller is to look at the queue. `read` and `left` in a round: what
    is for Python, None when nothing was rung. `take_in` is the same for connections; of a message
    for whose payload there is no memory, and that asks or answers, it gives number, acked, code,
    seq and the size of the payload.
    """

    def __init__(
        self,
        doorbell: Doorbell,
        requests: Outstanding,
        lock: Lock,
        rounds: Lock,
        seat: Lock,
        message: type[Message],
        outgoing: type[Outgoing],
        withdraw: Callable[[int], None],
        max_message: int,
        send_buffer: int,
        ack_every: int,
    ) -> None: ...
    @property
    def waiting(self) -> bool: ...
    @property
    def inside(self) -> int: ...
    halted: bool
    wanted: bool
    watched: bool
    unclocked: bool
    tick_at: float
    def connect(self, peer: int, line: int, lane: Lane, ledger: Ledger, /) -> None: ...
    def write(self, peer: int, /) -> None: ...
    def read_from(self, peer: int, /) -> None: ...
    def disconnect(self, peer: int, /) -> None: ...
    def close(self) -> None: ...
    def send(self, peer: int, code: int, seq: int, payload: bytes | memoryview, /) -> bool: ...
    def read(self) -> tuple[list[Message], list[int], list[int]] | None: ...
    def left(self) -> tuple[list[int], list[int]]: ...
    def ask(
        self, peer: int, code: int, payload: object, timeout: float | None, /
    ) -> Body | Literal[False] | None: ...
    def request(self, peer: int, code: int, payload: object, ticket: Ticket, /) -> bool: ...
    def look(self, seconds: float, /) -> bool: ...
    def post(self, peer: int, code: int, payload: object, /) -> bool: ...
    def post_many(
        self, peer: int, code: int, payloads: tuple[object, ...], place: int, /
    ) -> int: ...
    def post_all(self, peers: tuple[int, ...], code: int, payload: object, /) -> list[int]: ...
    def serve(
        self,
        host: object,
        replies: object,
        handlers: Mapping[int, tuple[object, object, object] | tuple[object, object]],
        queued: Callable[[], int],
        shared: bool,
        /,
    ) -> None: ...
    def withdraw(self, src: int, seq: int, /) -> bool: ...
    def reach(self, peer: int, port: Port, route: bytes, ledger: Ledger, /) -> None: ...
    def unreach(self, peer: int, /) -> None: ...
    def take_in(
        self, port: Port, known: dict[bytes, _T], /
    ) -> tuple[
        list[Message],
        list[int],
        tuple[_T, list[bytes] | tuple[int, int, int, int, int]]
        | tuple[bytes, bytes, int, list[bytes]]
        | Literal[True]
        | None,
    ]: ...
    def handle(
        self,
        host: object,
        replies: object,
        handlers: Mapping[int, tuple[object, object, object] | tuple[object, object]],
        message: Message,
        /,
    ) -> None: ...
    def call(
        self,
        peer: int,
        code: int,
        payload: bytes | memoryview,
        ticket: Ticket,
        deadline: float | None,
        /,
    ) -> bool | None: ...
    def ping(self, peer: int, timeout: float | None, /) -> bool | None: ...

@final
class Clerk:
    """Answers without the interpreter what is asked at the desks of lanes, in a thread that is
    there between `start` and `stop`, if there are desks. `stop` blocks until it is gone."""

    def __init__(self, memory: Shared, spin: float = 0) -> None: ...
    @property
    def running(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def serve(self, line: int, lane: Lane, /) -> None: ...
    def leave(self, line: int, /) -> None: ...

@final
class Lane:
    """One end of the lane in this memory, whose maker is the `first`. Nothing blocks: what there is
    no room for waits, and goes with `flush`; both are True if there is more to do at once.
    `receive` raises Malformed, once."""

    def __init__(self, memory: Shared, first: bool) -> None: ...
    @property
    def waits(self) -> bool: ...
    @property
    def window(self) -> int: ...
    most: int
    def reach(self, memory: Shared, line: int, /) -> None: ...
    def send(
        self, number: int, acked: int, code: int, seq: int, payload: bytes | memoryview, /
    ) -> bool: ...
    def flush(self) -> bool: ...
    #: what is sent wakes nobody: it is seen with what comes next, or by `ring`
    quiet: bool
    def ring(self) -> None: ...
    def remind(self) -> bool: ...
    def settle(self, idle: bool, /) -> None: ...
    def receive(self, max_message: int, /) -> tuple[int, int, int, int, bytes | int] | None: ...
    def close(self) -> None: ...
