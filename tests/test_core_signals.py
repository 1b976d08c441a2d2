"""The machines of signals and process groups: queues, senders, relays, and IDs that are kept."""

from __future__ import annotations

import errno
from typing import Any

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.roster import Applicant
from libos_ipc.core.signals import FIRST_REAL_TIME, MOST_PENDING, Inbox, Pending, numbered
from libos_ipc.core.vocabulary import (
    Answer,
    Effects,
    Journal,
    KernelSignal,
    Say,
    SignalInfo,
    Signalled,
)

INFO = SignalInfo(5, 0, "process")


def test_pending_signals_merge_or_queue() -> None:
    pending = Pending()
    assert pending.arrive(10, INFO)
    assert not pending.arrive(10, INFO._replace(sender=6))
    assert [pending.arrive(40, INFO._replace(sender=n)) for n in range(3)] == [True] * 3
    assert pending.has((10,))
    assert not pending.has((11, 41))
    assert pending.take((40, 10)) == (10, INFO), "the lowest number first"
    assert [pending.take((40,)) for _ in range(4)] == [
        *[(40, INFO._replace(sender=n)) for n in range(3)],
        None,
    ]
    for _ in range(MOST_PENDING):
        assert pending.arrive(FIRST_REAL_TIME, INFO)
    assert not pending.arrive(FIRST_REAL_TIME, INFO)
    assert pending.arrive(9, INFO)


class Desk:
    """An inbox whose questions and answers are lists."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Any]] = []
        self.results: list[tuple[int, int, int]] = []
        self.inbox = Inbox(2, 1, self._ask, self._reply)
        self.inbox.pid, self.inbox.uid = 20, 1000

    def _ask(self, code: Code, fields: Any, then: Any, now: float) -> Effects:
        assert code == Code.GET_PROCESS
        self.asked.append((fields[0], then))
        return []

    def _reply(self, dst: int, seq: int, result: int, now: float) -> Effects:
        self.results.append((dst, seq, result))
        return []

    def kill(self, src: int, *fields: int, seq: int = 7) -> Effects:
        return self.inbox.on_kill(src, seq, fields, 0.0)

    def answer(self, vmid: int, uid: int) -> Effects:
        pid, then = self.asked.pop(0)
        effects: Effects = then((0, vmid, pid, 4711, 1, uid, 2, 0, 0), 0.0)
        return effects


def test_a_sender_is_believed_when_the_leader_has_confirmed_it() -> None:
    desk = Desk()
    assert desk.kill(3, 30, 20, 20, 40, 1) == []
    assert desk.kill(3, 30, 20, 20, 41, 1) == [], "and nothing overtakes"
    assert len(desk.asked) == 1
    told = desk.answer(3, 1000)
    assert told == [Signalled(sig, SignalInfo(30, 1000, "process")) for sig in (40, 41)]
    assert desk.kill(3, 30, 20, 20, 42, 1) == [Signalled(42, SignalInfo(30, 1000, "process"))]
    desk.inbox.on_gone(3)
    assert desk.kill(3, 30, 20, 20, 42, 1) == []
    assert len(desk.asked) == 1, "asked again"


def test_a_false_name_or_another_user_is_refused() -> None:
    desk = Desk()
    desk.kill(3, 31, 20, 20, 40, 1)
    assert desk.answer(4, 1000) == []
    desk.kill(3, 30, 20, 20, 40, 1)
    assert desk.answer(3, 1001) == []
    assert [result for *_, result in desk.results] == [-errno.EPERM] * 2
    desk.kill(4, 40, 20, 20, 40, 1)
    assert desk.answer(4, 0) == [Signalled(40, SignalInfo(40, 0, "process"))], "root may"


def test_what_makes_no_sense_is_refused() -> None:
    desk = Desk()
    for fields in ((3, 20, 20, 65, 1), (3, 20, 20, -1, 1), (3, 20, 20, 9, 4)):
        assert desk.kill(3, *fields) == []
    assert desk.kill(3, 30, 21, 21, 9, 1) == []
    assert desk.kill(3, 30, 20, 5, 9, 2) == [], "only the leader relays"
    assert [r for *_, r in desk.results] == [-errno.EINVAL] * 3 + [-errno.ESRCH, -errno.EPERM]
    assert not desk.asked
    assert desk.kill(2, 20, 20, 20, 0, 1) == [], "signal 0 only asks"
    assert desk.results[-1] == (2, 7, 0)


# ---- the leader's desk


def leader_of(count: int) -> tuple[Leader, list[int]]:
    """A leader, and the VMIDs of members whose pids are 1, 33, 65, …"""
    leader = Leader(id_max=10**4, range_size=32, quarantine_s=60.0)
    vmids = []
    for n in range(count):
        admission, _ = leader.on_join(Applicant(100 + n, 7, 0, 0, True), 0.0, 0.0)
        leader.on_hello(admission.vmid, 100 + n, 7, 0, 0.0, 0.0)
        vmids.append(admission.vmid)
    return leader, vmids


def ask(leader: Leader, src: int, code: Code, *fields: object) -> Effects:
    effects = leader.on_request(src, code, 9, fields, 0.0)
    leader.check()
    return effects


def result(effects: Effects) -> Any:
    (answer,) = (effect for effect in effects if isinstance(effect, Answer))
    return answer.fields[0] if len(answer.fields) == 1 else answer.fields


def test_a_relay_goes_as_a_message_where_the_number_is_caught() -> None:
    leader, (one, two, three) = leader_of(3)
    assert result(ask(leader, two, Code.SET_CAUGHT, 1 << 10 | 1 << 9 | 1)) == 0
    assert leader.particulars.caught == {two: 1 << 10}, "nobody catches SIGKILL"
    effects = ask(leader, one, Code.PID_KILL, 1, 0, 0, 10, 3)
    assert Say(two, Code.PID_KILL, (1, 33, 0, 10, numbered(3, 1))) in effects
    assert KernelSignal(three, 10, (1, 65, 0, 10, 3)) in effects
    assert len(effects) == 4
    leader.on_detached(two, 0.0)
    effects = ask(leader, one, Code.PID_KILL, 1, 0, 0, 10, 3)
    assert KernelSignal(two, 10, (1, 33, 0, 10, 3)) in effects, "the program it exec'ed does not"
    assert len(ask(leader, one, Code.PID_KILL, 1, 0, 0, 0, 3)) == 1
    assert result(ask(leader, one, Code.PID_KILL, 33, 0, 0, 10, 3)) == -errno.EPERM
    assert result(ask(leader, one, Code.PID_KILL, 1, 0, 65, 70, 2)) == -errno.EINVAL
    assert result(ask(leader, one, Code.PID_KILL, 1, 0, 5, 10, 2)) == -errno.ESRCH


def test_a_child_of_which_the_kernel_has_said_nothing_is_of_its_parents_user() -> None:
    """As to a leader that took over just when it was forked."""
    leader, (one,) = leader_of(1)
    child = result(ask(leader, one, Code.GET_NEW_VMID))
    assert result(ask(leader, one, Code.CHANGE_ID_OWNER, 2, child)) == 0
    ask(leader, one, Code.CHILD_STARTED, child, 2)
    assert result(ask(leader, child, Code.PID_KILL, 2, 1, 1, 10, 1)) == 0


def test_an_id_that_names_a_process_group_is_kept_as_long_as_that_is() -> None:
    leader, (one, two, three) = leader_of(3)
    for vmid in (two, three):
        assert result(ask(leader, vmid, Code.SET_PGID, 0, 1)) == 0
    assert leader.groups.members == {1: {one, two, three}}
    leader.on_gone(one, 1.0)
    leader.check()
    assert leader.ids.owner_of(1) == two
    assert leader.ids.owner_of(2) == 0
    assert result(ask(leader, two, Code.RELEASE_ID_RANGE, 1, 1)) == -errno.EINVAL
    assert result(ask(leader, two, Code.CHANGE_ID_OWNER, 1, three)) == -errno.EINVAL
    assert result(ask(leader, two, Code.SET_PGID, 0, 0)) == 0
    assert leader.ids.owner_of(1) == three, "it has left the group"
    leader.on_gone(three, 2.0)
    leader.check()
    assert leader.ids.owner_of(1) == 0
    assert result(ask(leader, two, Code.SET_PGID, 0, 1)) == -errno.EPERM


def test_the_journal_brings_everything_back() -> None:
    records: list[Any] = []

    def note(effects: Effects) -> Effects:
        records.extend(effect.record for effect in effects if isinstance(effect, Journal))
        return effects

    leader = Leader(id_max=10**4, range_size=32, quarantine_s=60.0)
    vmids = []
    for n in range(3):
        admission, effects = leader.on_join(Applicant(100 + n, 7, 0, 0, True), 0.0, 0.0)
        note(effects)
        note(leader.on_hello(admission.vmid, 100 + n, 7, 0, 0.0, 0.0) or [])
        vmids.append(admission.vmid)
    one, two, three = vmids
    note(ask(leader, two, Code.SET_PGID, 0, 1))
    note(ask(leader, three, Code.SET_CAUGHT, 1 << 34))
    note(ask(leader, three, Code.SET_THREAD, 66, 4711))
    note(ask(leader, three, Code.SET_META, 1, b"key\0value"))
    note(ask(leader, two, Code.SET_META, 1, b"key\0value"))
    note(ask(leader, two, Code.SET_META, 0, b"key"))
    note(leader.on_gone(one, 1.0))
    again = Leader(id_max=10**4, range_size=32, quarantine_s=60.0)
    again.replay(records)
    again.check()
    assert again.state() == leader.state()
    assert result(ask(again, two, Code.GET_META, 65, b"key")) == (0, b"value")
    assert result(ask(again, two, Code.GET_PROCESS, 66))[7] == 4711


def test_threads_and_entries_belong_to_their_process() -> None:
    leader, (one, two) = leader_of(2)
    assert result(ask(leader, one, Code.SET_THREAD, 34, 4711)) == -errno.EINVAL
    assert result(ask(leader, one, Code.SET_THREAD, 1, 4711)) == -errno.EINVAL
    assert result(ask(leader, one, Code.SET_THREAD, 2, 4711)) == 0
    assert result(ask(leader, two, Code.SET_THREAD, 2, 0)) == -errno.EINVAL
    assert result(ask(leader, two, Code.GET_PROCESS, 2))[:3] == (0, one, 1)
    assert result(ask(leader, two, Code.GET_PROCESS, 3))[0] == -errno.ESRCH, "not a thread"
    assert result(ask(leader, two, Code.GET_META, 2, b"key"))[0] == -errno.ESRCH
    assert result(ask(leader, two, Code.GET_META, 1, b"key"))[0] == -errno.ENOENT
    large = b"key\0" + bytes(1 << 16)
    results = [result(ask(leader, one, Code.SET_META, 1, b"%d" % n + large)) for n in range(20)]
    assert set(results) == {0, -errno.ENOSPC}
    leader.on_gone(one, 1.0)
    leader.check()
    gone = result(ask(leader, two, Code.GET_PROCESS, 1))
    assert gone[:2] == (-errno.ESRCH, one)
    assert gone[3:5] == (100, 7), "a zombie can still be found"


def test_the_id_of_a_thread_may_move_to_another_process() -> None:
    """It is a thread of that one then, also after the end of the first."""
    leader, (one, two) = leader_of(2)
    assert result(ask(leader, one, Code.SET_THREAD, 2, 4711)) == 0
    assert result(ask(leader, one, Code.CHANGE_ID_OWNER, 2, two)) == 0
    assert result(ask(leader, two, Code.SET_THREAD, 2, 4712)) == 0
    assert result(ask(leader, one, Code.SET_THREAD, 2, 0)) == -errno.EINVAL
    leader.on_gone(one, 1.0)
    leader.check()
    assert result(ask(leader, two, Code.GET_PROCESS, 2))[:2] == (0, two)
    assert result(ask(leader, two, Code.SET_THREAD, 2, 0)) == 0
