"""What a machine wants done about lanes: effects, performed as those in `vocabulary`."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DropLane", "OfferLane", "ReachLane", "ReadLane", "TakeLane"]


class OfferLane(NamedTuple):
    """Make memory for a lane to `peer`, if that can be, and say so (`Lanes.offer`)."""

    peer: int


class TakeLane(NamedTuple):
    """Map the memory and the bell behind these descriptors of `peer`, and say what came of it
    (`Lanes.take`). What was made for an offer of our own is not needed any more."""

    peer: int
    memory: int
    bell: int
    line: int


class ReachLane(NamedTuple):
    """`peer` has the memory and writes into it: read. Map its bell, and say so (`Lanes.open`) if
    that could be done; otherwise only the other direction is the lane's."""

    peer: int
    bell: int
    line: int


class ReadLane(NamedTuple):
    """`peer` writes into the lane from now on: read."""

    peer: int


class DropLane(NamedTuple):
    """`peer` could not take the lane: give its memory back."""

    peer: int
