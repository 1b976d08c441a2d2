"""One process's working end of one group: the core's machines, driven by real events.

Two kinds of threads come here. Callers ask for something; the worker brings what happened.
Both step the same machine under one lock and perform its effects before they let go of it, so
messages leave in the order in which they were numbered. Nothing done under the lock blocks:
ZeroMQ only queues, tickets and the dispatcher are only told.

A session outlives its transport, which is ended before a fork and made again when it is missed
(`carriage.py`). In the meantime everything works but the sending, which the links make good.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from libos_ipc._native import Lock
from libos_ipc._native import Port as NativePort
from libos_ipc.core.codes import Code
from libos_ipc.core.member import Member
from libos_ipc.core.vocabulary import (
    ChildExit,
    ChildJoined,
    Close,
    Confirm,
    Delegated,
    Discard,
    Disconnect,
    Ended,
    Expect,
    Fail,
    GetMeta,
    HandleDropped,
    Heard,
    InTurns,
    Journal,
    KernelSignal,
    LeaderGone,
    LookForEpoch,
    Message,
    Note,
    Offer,
    Open,
    Own,
    PgidChanged,
    Progress,
    Publish,
    Recalled,
    Reopen,
    Resolve,
    SignalInfo,
    Signalled,
    Transmit,
    Unpublish,
    Withdraw,
)
from libos_ipc.errors import NotJoined
from libos_ipc.runtime.carriage import Carriage
from libos_ipc.runtime.clock import Clock
from libos_ipc.runtime.codec import pack
from libos_ipc.runtime.condition import Condition
from libos_ipc.runtime.group_file import GroupFile
from libos_ipc.runtime.held_files import Fork, HeldFiles
from libos_ipc.runtime.lane_traffic import LaneTraffic
from libos_ipc.runtime.liveness import Watchers
from libos_ipc.runtime.loop import Loop
from libos_ipc.runtime.performing import Performing
from libos_ipc.runtime.porter import Porter
from libos_ipc.runtime.presence import expect
from libos_ipc.runtime.receiver import Receiver
from libos_ipc.runtime.reserve import Reserve
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.seat import Seat
from libos_ipc.runtime.shortage import unconnected
from libos_ipc.runtime.sockets import Sockets
from libos_ipc.runtime.threads import QuickThread
from libos_ipc.runtime.ticket import Settled
from libos_ipc.runtime.watches import Watches

__all__ = ["Host", "Session"]

log = logging.getLogger("libos_ipc")


class Host(Protocol):
    """What a session tells whoever owns it. Called under the lock: must not block."""

    @property
    def deliver(self) -> Callable[[Message], None]: ...
    @property
    def reserve(self) -> Reserve: ...
    def withdraw(self, src: int, seq: int) -> None: ...
    def child_exit(self, told: ChildExit) -> None: ...
    def child_joined(self, vmid: int, pid: int) -> None: ...
    def signalled(self, sig: int, info: SignalInfo) -> None: ...
    def pgid_changed(self, pgid: int) -> None: ...
    def get_meta(self, asked: GetMeta) -> None: ...
    def handle_dropped(self, key: tuple[int, int, int, int]) -> None: ...
    def publish(self, effect: Publish) -> None: ...
    def unpublish(self, id: int) -> None: ...
    def discard(self, where: bytes) -> None: ...
    def identified(self, vmid: int, os_pid: int) -> None: ...
    def gone(self, vmid: int) -> None: ...
    def journal(self, record: tuple[object, ...]) -> None: ...
    def confirm(self) -> None: ...
    def leader_gone(self, epoch: int) -> None: ...
    def look_for_epoch(self) -> None: ...
    def watched(self) -> None: ...
    def sealed(self) -> None: ...
    def tick(self, now: float) -> None: ...
    def ended(self) -> None: ...


class Session(Performing):
    """The machine, its lock, its worker and its sockets."""

    def __init__(
        self, directory: GroupDir, file: GroupFile, member: Member, sockets: Sockets, host: Host
    ) -> None:
        super().__init__()
        self.directory = directory
        self.file = file
        self.config = file.config
        self.member = member
        self.host = host
        self.sockets = sockets
        self.watchers = Watchers(sockets.live)
        self.lock = Lock()
        #: notified at every Progress effect
        self.progress = Condition(self.lock)
        self._waiting = 0
        self._waiting_for_links = 0
        self._overdue = {}
        #: called once, at the next of these
        self.listeners: list[Callable[[], None]] = []
        self.closed = False
        self.leaving = False
        self._group_id = file.id.encode()
        self.held_files = HeldFiles(directory, member.vmid)
        self.loop = Loop(f"libos_ipc {file.name}", self._on_round)
        self.clock = Clock(self.loop.wake, self._tick)
        self.watches = Watches(
            self.loop.register, self.loop.unregister, self._on_peer_end, self._on_peer_death
        )
        self.receiver = Receiver(self)
        self.carriage = Carriage(self)
        self.traffic = LaneTraffic(self)
        self.porter = self.traffic.porter
        self.exchange = self.traffic.exchange
        self._on_sealed = host.sealed
        self._perform_one = self._table_for(host)

    def _table_for(self, host: Host) -> dict[type, Callable[..., None]]:
        return {
            Open: self._open,
            Reopen: self._open,
            Disconnect: lambda effect: self._disconnect(effect.peer),
            Close: self._close_peer,
            Transmit: self._transmit,
            Message: host.deliver,
            Withdraw: lambda effect: host.withdraw(effect.src, effect.seq),
            Resolve: self._resolve,
            Fail: self._fail,
            Progress: self._on_progress,
            Journal: lambda effect: host.journal(effect.record),
            Confirm: lambda effect: host.confirm(),
            Own: lambda effect: self._own.append(effect.message),
            Heard: lambda effect: self.member.on_heard(effect.message),
            LeaderGone: lambda effect: host.leader_gone(effect.epoch),
            LookForEpoch: lambda effect: host.look_for_epoch(),
            Expect: lambda effect: expect(self, effect),
            ChildExit: host.child_exit,
            ChildJoined: lambda effect: host.child_joined(effect.vmid, effect.pid),
            Signalled: lambda effect: host.signalled(effect.sig, effect.info),
            KernelSignal: self._kernel_signal,
            PgidChanged: lambda effect: host.pgid_changed(effect.pgid),
            GetMeta: host.get_meta,
            HandleDropped: lambda effect: host.handle_dropped(effect.key),
            Delegated: lambda effect: self.held_files.open(*effect),
            Recalled: self._give_back,
            InTurns: lambda effect: self.held_files.open_turns(*effect),
            Publish: host.publish,
            Unpublish: lambda effect: host.unpublish(effect.id),
            Offer: lambda effect: self.member.sync.client.put(effect.id),
            Discard: lambda effect: host.discard(effect.where),
            Ended: lambda effect: host.ended(),
            Note: self._note,
            **self.traffic.table,
        }

    # ---- life

    def start(
        self, greet: Iterable[int], then: Callable[[], None], thread: QuickThread | None
    ) -> Callable[[], None]:
        """Start the worker, which makes us known to `greet`, and the transport if that is needed:
        a thread of its own, or this one, which has to call what is returned.

        Does not wait for it: until the transport stands, the links keep what is sent. `then`
        is called before it does: what comes by lanes is answered meanwhile.
        """
        begun = False

        def first() -> None:
            nonlocal begun
            if not begun:
                then()
                begun = True
                with self.lock:
                    for vmid in greet:
                        self.perform(self.member.greet(vmid, time.monotonic()))
            if not self.carriage.rest():
                self.carriage.make()

        # Each new thread takes the interpreter as soon as we let go of it: the busiest comes last.
        self.read_lanes()
        return self.loop.start(first, thread)

    def read_lanes(self) -> None:
        """Read what comes by lanes, if the group uses any, until `halt`."""
        if self.member.lane_after:
            self.porter.start()

    @property
    def seats(self) -> tuple[Seat, Porter | None]:
        """Where a thread that waits for messages of anybody sits best, and whose exchange is to be
        asked, if the group uses lanes."""
        return (self.porter, self.porter) if self.member.lane_after else (self.loop, None)

    def halt(self) -> None:
        """End our threads, and have nobody sit in their place."""
        self.loop.end()  # each thread ends while we wait for another
        self.porter.stop()
        self.loop.stop()

    def unplug(self) -> None:
        """After `halt`: end the transport. No thread of ours is left when this returns."""
        with self.lock:
            self.carriage.end()

    def close(self) -> None:
        """Leave nothing behind: thread, sockets, descriptors. Outstanding requests fail."""
        self.halt()
        self.unplug()
        with self.lock:
            self.closed = True
            self.member.ids.withdraw()
            error = NotJoined(f"the group {self.file.name!r} was closed in this process")
            self.end_requests(error)
            self.tell_progress()
            self.held_files.close()
            self.traffic.close()
            self.watches.close()
            self.loop.close()
            self.watchers.close()
            self.directory.forget(self.member.vmid)  # first: who sees our end sees that we left
            self.sockets.close()
            self.host.reserve.release()

    def partings(self, fork: Fork | None) -> list[Callable[[], object]]:
        """What a forked child does first of all: leave to the parent its requests, the memory that
        it shares with others, and the sockets at which it listens."""
        held = [self.held_files.close] if self.held_files.used else []
        callers = self.partings_of_callers(0 if fork is None else fork.seq)
        return [*callers, *held, *self.traffic.lanes.closing(), *self.sockets.closing()]

    def abandon(self) -> None:
        """After that, in any thread: close our copies of its other descriptors, and memory."""
        self.traffic.close()
        self.watches.abandon()
        self.loop.close()
        self.watchers.close()

    # ---- performing, under the lock

    def _transmit(self, effect: Transmit) -> None:
        transport = self.carriage.transport
        if transport is None:
            self.carriage.miss()
            return
        peer, number, acked, message = effect
        transport.transmit(peer, pack(number, acked, message, self._group_id))
        self.clock.on_sent()

    def _open(self, effect: Open | Reopen) -> None:
        try:
            self._connect(effect.peer)
            self.watches.unreached.pop(effect.peer, None)
        except OSError as error:
            unconnected(self, effect.peer, error)

    def _connect(self, peer: int) -> None:
        if not self.watches.live(peer, self.directory.live_socket(peer)):
            if self.receiver.hears(peer) or self.traffic.lanes.line_of(peer) is not None:
                # What it had sent before it ended is read first; then its end is told.
                self.receiver.expect_end(peer)
                self.loop.wake()
            else:
                self.perform_within(self.member.on_gone(peer, time.monotonic()))
        elif self.carriage.transport is None:
            self.carriage.miss()
        else:
            self._disconnect(peer)
            path = self.directory.message_socket(peer)
            port, route = self.carriage.transport.connect(peer, path)
            # Where lanes are used, the machine is to see what is sent, and count until one is due.
            if not self.member.lane_after and isinstance(port, NativePort):
                self.exchange.reach(peer, port, route, self.member.links[peer])

    def _close_peer(self, effect: Close) -> None:
        self.traffic.drop(effect.peer)
        self._disconnect(effect.peer)
        self._overdue.pop(effect.peer, None)

    def _disconnect(self, peer: int) -> None:
        self.exchange.unreach(peer)
        if self.carriage.transport is not None:
            self.carriage.transport.disconnect(peer)

    def _resolve(self, effect: Resolve) -> None:
        ticket: Settled = effect.ticket  # type: ignore[assignment]
        ticket.resolve(effect.payload)
        self.nudge(urgent=True)

    def _fail(self, effect: Fail) -> None:
        ticket: Settled = effect.ticket  # type: ignore[assignment]
        ticket.fail(effect.error)
        self.nudge(urgent=True)

    def _on_progress(self, effect: Progress) -> None:
        if self._waiting or self.listeners:
            self.tell_progress(link=effect.peer != 0)

    def _kernel_signal(self, effect: KernelSignal) -> None:
        try:
            self.watches.signal(effect.vmid, effect.sig)
        except PermissionError:
            # Another user's process, whose own right it is: it signals itself.
            member, now = self.member, time.monotonic()
            self.perform_within(member.send(effect.vmid, Code.PID_KILL, effect.message, now))

    def _give_back(self, effect: Recalled) -> None:
        self.held_files.close_slot(effect.slot)
        member, now = self.member, time.monotonic()
        self.perform_within(
            member.send(member.leader_vmid, Code.FILE_RETURNED, (effect.slot,), now)
        )

    def _note(self, effect: Note) -> None:
        self.member.tally.events[effect.event] += 1
        given = {"group": self.file.name, "epoch": self.member.epoch, "by": self.member.vmid}
        fields = {"event": effect.event, **given, **effect.fields}
        log.warning("%s", effect.said(given), extra={"libos_ipc": fields})

    # ---- what happens, in the worker

    def _on_round(self) -> float | None:
        """After each round of the loop: settle ends, do what is due, say when to come back."""
        self.carriage.on_round()
        return self.clock.run(busy=self.receiver.settle_ends())

    def _tick(self, now: float) -> None:
        if self.carriage.transport is not None:  # else it is being made, of these, or rests
            self.host.reserve.refill()
        with self.lock:
            effects, again = self.member.on_tick(now)
            self.perform(effects)
            self.clock.idle = not again
            self.host.tick(now)

    def _on_peer_end(self, vmid: int) -> None:
        self.watches.drop_live(vmid)
        self.receiver.expect_end(vmid)

    def _on_peer_death(self, vmid: int) -> None:
        self.watches.drop_process(vmid)
        self.watches.drop_live(vmid)
        self.receiver.expect_end(vmid, dead=True)
