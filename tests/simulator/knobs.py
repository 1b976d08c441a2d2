"""What differs from seed to seed.

Small numbers are on purpose: a space of forty IDs wraps and fills, a buffer of three hundred
bytes makes senders wait, a delay of a second makes whatever may overtake overtake.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

__all__ = ["Knobs"]


@dataclass(frozen=True)
class Knobs:
    """One seed's world. Seconds, bytes, or probabilities; `w_…` weigh the chaos' choices."""

    embedded: bool  #: the founder leads, forks included; else a process of its own does
    leader_dies: bool
    members: int  #: that the group begins with
    most: int  #: live members at once
    actions: int
    gap_s: float  #: mean time between two actions
    delay_s: float  #: longest way of a message, now and then ten times that
    notice_s: float  #: longest time until the kernel's word of an end is heard
    wake_s: float  #: longest time from being notified to running
    handler_s: float  #: longest time in a handler
    stop_s: float
    block_s: float
    loss: float  #: of a single message, within a connection
    repeat: float
    stale: float  #: that the end of a replaced connection is reported as if of the new one
    ack_every: int
    lane_after: int  #: messages to a process before it is offered a lane, 0 for never
    no_lane: float  #: that one cannot be made, taken or reached
    streak: int  #: of acquisitions after which a file is given away
    moves: int  #: of a lock from one to the other after which they take turns
    id_max: int
    range_size: int
    quarantine_s: float
    send_buffer: int
    largest: int  #: payload
    w_talk: int
    w_ids: int
    w_locks: int
    w_sync: int
    w_life: int
    w_faults: int
    put: float  #: that what a program has just unlocked is left where the leader may take it

    @classmethod
    def draw(cls, rng: random.Random, actions: int | None = None) -> Knobs:
        """The knobs of a seed. `actions` instead of the number drawn."""
        quiet = rng.random() < 0.15  # no faults at all: what goes wrong here is plainly wrong
        most = rng.randint(4, 8)
        drawn = rng.randint(24, 72)
        return cls(
            embedded=rng.random() < 0.4,
            leader_dies=rng.random() < 0.1,
            members=rng.randint(2, 4),
            most=most,
            actions=drawn if actions is None else actions,
            gap_s=rng.choice((0.002, 0.02, 0.1)),
            delay_s=rng.choice((0.0005, 0.005, 0.05, 0.3)),
            notice_s=rng.choice((0.0005, 0.01, 0.2)),
            wake_s=rng.choice((0.0, 0.0005, 0.02)),
            handler_s=rng.choice((0.0002, 0.01, 0.3)),
            stop_s=rng.choice((0.05, 1.0, 8.0)),
            block_s=rng.choice((0.05, 0.5, 4.0)),
            loss=0.0 if quiet else rng.choice((0.0, 0.0, 0.01, 0.08)),
            repeat=0.0 if quiet else rng.choice((0.0, 0.0, 0.02, 0.2)),
            stale=0.0 if quiet else rng.choice((0.0, 0.3)),
            ack_every=rng.choice((2, 8, 256)),
            lane_after=rng.choice((0, 1, 2, 8)),
            no_lane=rng.choice((0.0, 0.0, 0.3)),
            streak=rng.choice((1, 2, 8)),
            moves=rng.choice((1, 1, 3)),
            id_max=rng.choice((40, 80, 2**22 - 1, 2**22 - 1)),
            range_size=rng.choice((1, 2, 4, 8)),
            quarantine_s=rng.choice((0.0, 0.2, 180.0)),
            send_buffer=rng.choice((120, 300, 1000, 100000)),
            largest=rng.choice((8, 60, 200)),
            w_talk=rng.randint(2, 8),
            w_ids=rng.randint(1, 8),
            w_locks=rng.choice((0, 2, 6)),
            w_sync=rng.choice((0, 2, 6)),
            w_life=rng.randint(1, 6),
            w_faults=0 if quiet else rng.randint(1, 6),
            put=rng.choice((0.0, 0.5, 1.0)),
        )

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
