"""Steps of the client's machine of sync handles that happen entirely or not at all.

Callers take them in the main thread too, where a signal handler of the program may raise between
any two steps of Python (Ctrl-C does). What it breaks off is mended here before it goes on its way:
as long as the machine has not given out what it wants done, it goes back to before; after that, all
of it is done. What the links have numbered they keep, and so it is known.

Once: a second handler that raises meanwhile, within some microseconds, breaks off the mending. And
where the leader is in this process, its own steps are taken here too, and are not mended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from libos_ipc.core.sync_client import SyncClient
from libos_ipc.core.sync_end import TO_SERVER
from libos_ipc.core.sync_handle import Effects

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["take_whole"]


def take_whole(
    session: Session,
    id: int,
    begin: Callable[[SyncClient], Effects],
    end: Callable[[Effects], Any] | None = None,
) -> None:
    """Take a step of this handle, and perform it, unless `end` has done all of it. Under the lock.

    `begin` is a function in Python that returns what the machine does, and calls nothing after it.
    """
    client = session.member.sync.client
    before = client.mark(id)
    sent = _sent(session)
    wanted = None
    try:
        wanted = begin(client)
        if wanted and not (end is not None and end(wanted)):
            session.perform(session.member.sync.do(wanted, time.monotonic()))
    except BaseException:
        if wanted is None:
            left = client.return_to(id, before)
        else:
            left = _undone(wanted, _sent(session) - sent)
        _perform(session, left)
        raise
    client.put(id)


def _sent(session: Session) -> int:
    """How much has been said to the leader, if it is another process."""
    link = session.member.links.get(session.member.leader_vmid)
    return 0 if link is None else link.sent


def _undone(wanted: Effects, sent: int) -> Effects:
    """What may still be to be done, when so many words have been sent. Everything else may be done
    twice."""
    words = [each for each in wanted if type(each) in TO_SERVER]
    return [each for each in wanted if type(each) not in TO_SERVER] + words[sent:]


def _perform(session: Session, left: Effects) -> None:
    member, now = session.member, time.monotonic()
    effects = member.sync.do(left, now)
    # In order: what had been sent before, and did not get out, goes first.
    session.perform(member.send_again(member.leader_vmid, now) + effects)
