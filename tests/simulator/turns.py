"""Turns as plain Python has them: also what native/turns.c is compared with."""

from __future__ import annotations

from libos_ipc.core.lock_passing import Found, Turn

__all__ = ["Queue", "TurnTwin", "TurnsTwin"]


class Queue:
    """One place of the memory."""

    def __init__(self, queue: tuple[Turn, ...], last: int) -> None:
        self.taken, self.ended = True, False
        self.next, self.last = queue[0].number + 1, last
        self.order = [turn.which for turn in queue]
        self.turns = {turn.which: turn for turn in queue}

    def found(self) -> Found:
        return Found(self.taken, tuple(self.turns[which] for which in self.order))


class TurnTwin:
    """Does what a process does with `Turns`, without waiting."""

    def __init__(self, queue: Queue, me: int) -> None:
        self.queue, self.me = queue, me

    def take(self, handle: int, thread: int, wait: int, patient: bool) -> int:
        queue, me = self.queue, self.me
        if me in queue.order:
            if queue.turns[me].handle != handle:
                return 0
        elif queue.ended or (queue.order and not patient):
            return 0
        else:
            queue.turns[me] = Turn(me, handle, thread, wait, 0)
            queue.order.append(me)
        return self.claim() or -1

    def claim(self) -> int:
        queue, me = self.queue, self.me
        if queue.ended or queue.next > queue.last:
            return -1 if queue.ended or queue.order[0] == me else 0
        if queue.order[0] != me:
            return 0
        number, queue.next, queue.taken = queue.next, queue.next + 1, True
        queue.turns[me] = queue.turns[me]._replace(number=number)
        return number

    def leave(self, handle: int) -> bool:
        queue, me = self.queue, self.me
        if queue.ended or me not in queue.order or queue.turns[me].handle != handle:
            return False
        queue.taken = queue.taken and queue.order[0] != me
        queue.order.remove(me)
        return True


class TurnsTwin:
    """The leader's end."""

    def __init__(self) -> None:
        self.queues: list[Queue] = []

    def begin(self, queue: tuple[Turn, ...], last: int) -> tuple[int, int] | None:
        self.queues.append(Queue(queue, last))
        return 1, len(self.queues) - 1

    def look(self, where: int, place: int) -> Found:
        return self.queues[place].found()

    def end(self, where: int, place: int) -> Found:
        self.queues[place].ended = True
        return self.queues[place].found()

    def drop(self, where: int) -> None:
        pass

    def close(self) -> None:
        pass
