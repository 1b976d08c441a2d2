"""One process's own IDs: handing out single ones without asking the leader.

The leader gives a process ranges; the process hands out their IDs one by one and gives a range
back when it has no more use for it. A new ID is wanted at every fork and every thread, so all of
this is C (`native/id_ranges.c`), whose plain twin the tests have; here is what it is for.

A range lives through three stages:

    unopened --> current --> opened to the last ID --> given back
                                 ^    |
                                 +----+  its IDs, some time after their release, once more

An ID of a range is *fresh* (not yet handed out), *live* or *resting*. When none is fresh or live,
every one was used and released, and the range is *idle*. Idle and unopened ranges are the wholly
free ones; `reserve` of them stay here, unopened ones rather than idle ones, the rest goes back. Two
ranges never go back: the current one while it has IDs left, even if all it handed out was
released (a process that forks and waits in turn would ask the leader each time), and an unopened
one without which `low` would ask for the next.

A process that uses IDs up fast has its ranges come and go in a *batch*, with one message: it asks
for so many at a time, early enough, and up to twice as many idle ones wait for the next message.
`provision.py` says how large the batch is, and ends the waiting; with a batch of one each
range goes back when its last ID is released.

New IDs come from the current range, then from those that have rested for `quarantine_s`, the
longest-rested first, then from an unopened range: a process keeps few ranges, and no ID comes
back while a message to its last bearer may be on its way. An ID moved to another process splits
its range here exactly as at the leader, so that what is given back later is a range that the
leader knows. An ID that another process moved here is not known here: the leader keeps it.

Refused: ranges that overlap one we have, and releasing an ID of ours that is not handed out.

Invariants: an ID of a range is fresh, live or resting, and only one of these; only the current
range is opened in part.
"""

from __future__ import annotations

from libos_ipc import _native
from libos_ipc.errors import InvalidRange

__all__ = ["LocalIds"]


class LocalIds(_native.LocalIds):
    """The IDs of one process. `now` and `quarantine_s` are in seconds; takes no lock itself.

    `reserve` is the number of wholly free ranges beside the current one that stay local.
    """

    __slots__ = ()

    def release(self, id: int, now: float) -> list[tuple[int, int]] | None:
        """Take an ID back; the result is the ranges to give back to the leader now.

        None if it is not of our ranges: the leader knows whose it is. InvalidRange if it is ours
        but not handed out.
        """
        try:
            return super().release(id, now)
        except ValueError as error:
            raise InvalidRange(str(error)) from None

    def grant(self, start: int, end: int) -> None:
        """A range has come from the leader. InvalidRange if it is none, or overlaps ours."""
        try:
            super().grant(start, end)
        except ValueError as error:
            raise InvalidRange(str(error)) from None
