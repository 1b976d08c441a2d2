"""The lock that C may look at does what threading.Lock does."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from processes import poll

from libos_ipc._native import Lock
from libos_ipc.runtime.condition import Condition


def test_it_is_taken_and_given_back() -> None:
    lock = Lock()
    assert not lock.locked()
    assert lock.acquire()
    assert lock.locked()
    assert not lock.acquire(blocking=False)
    lock.release()
    with lock as taken:
        assert taken
        assert lock.locked()
    assert not lock.locked()
    with pytest.raises(RuntimeError):
        lock.release()


def test_it_keeps_threads_apart() -> None:
    lock, count = Lock(), [0]

    def work() -> None:
        for _ in range(2000):
            with lock:
                before = count[0]
                time.sleep(0)
                count[0] = before + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count[0] == 8000


def test_who_waits_gives_up_in_time() -> None:
    lock = Lock()
    with lock:
        before = time.monotonic()
        assert lock.acquire(timeout=0.02) is False
        assert time.monotonic() - before >= 0.02
    assert lock.acquire(timeout=0.02) is True


def test_signals_are_handled_while_it_waits() -> None:
    lock = Lock()
    seen: list[int] = []

    def enough(*args: object) -> None:
        seen.append(1)
        if len(seen) == 2:
            raise InterruptedError

    before = signal.signal(signal.SIGALRM, enough)
    try:
        with lock:
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            with pytest.raises(InterruptedError):
                lock.acquire()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not lock.locked()


def test_a_condition_is_waited_for() -> None:
    lock = Lock()
    progress = Condition(lock)
    done: list[bool] = []
    told: list[bool] = []

    def wait() -> None:
        with lock:
            told.append(progress.wait_for(lambda: bool(done), 20))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    poll(lambda: len(progress._waiters) == 3)
    with lock:
        progress.notify_all()
    poll(lambda: len(progress._waiters) == 3)
    with lock:
        done.append(True)
        progress.notify_all()
    for thread in threads:
        thread.join()
    assert told == [True] * 3
    with lock:
        assert progress.wait_for(lambda: False, 0.01) is False
        assert lock.locked()
    assert progress._waiters == []


def test_a_signal_handler_that_raises_ends_the_wait_with_the_lock_held() -> None:
    lock = Lock()
    progress = Condition(lock)

    def enough(*args: object) -> None:
        assert not lock.locked()
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, enough)
    try:
        with lock:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(InterruptedError):
                progress.wait_for(lambda: False, None)
            assert lock.locked()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert progress._waiters == []
