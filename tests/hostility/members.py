"""Misdeeds over a connection that the target has accepted as a member's.

What does not make sense as a message costs its connection: a fresh one is made every few misdeeds,
or when it is refused. What makes sense is the next in order, or it would not be looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from libos_ipc import wire
from libos_ipc._native import pack_envelope, pack_message
from libos_ipc.core.codes import FIRST_USER_CODE, Code

from .foe import Foe
from .words import Correspondence, payload_of

__all__ = [
    "codes",
    "fields",
    "forged",
    "hellos",
    "mutated",
    "random_frames",
    "replayed",
    "sizes",
    "truncated",
]

#: Misdeeds of a connection that is refused at the first that makes no sense.
FEW = 8
#: Codes by which a member may leave, or do harm that it has a right to.
_SPARED = (Code.LEAVE, Code.PID_KILL)
_WORDS = [code for code in wire.ROWS if code not in _SPARED]


def _by_connection(
    foe: Foe,
    count: int,
    each: int,
    make: Callable[[], list[bytes]],
    talk: Correspondence | None = None,
) -> None:
    """So many misdeeds, `each` of a connection unless it is refused before."""
    done = 0
    while done < count:
        with foe.wire() as line:
            line.say(foe.hello())
            for frames in talk.catch_up() if talk else ():
                line.say(frames)
            for _ in range(min(each, count - done)):
                line.say(make())
                done += 1
                foe.did()


def random_frames(foe: Foe, count: int) -> None:
    """Frames of no sense: their number, their sizes, their bytes."""
    dice = foe.dice
    _by_connection(
        foe,
        count,
        FEW,
        lambda: [dice.randbytes(dice.randrange(40)) for _ in range(dice.randrange(1, 6))],
    )


def truncated(foe: Foe, count: int) -> None:
    """Right messages that end somewhere in the middle."""
    talk, dice = foe.correspondence(), foe.dice

    def cut() -> list[bytes]:
        frames = talk.frames(*talk.any_word())
        at = dice.randrange(len(frames))
        frames[at] = frames[at][: dice.randrange(len(frames[at]))]
        return frames[: dice.choice((1, 2, 2, 2))]

    _by_connection(foe, count, FEW, cut, talk)


def mutated(foe: Foe, count: int) -> None:
    """Right messages with a few wrong bytes in payload or head."""
    talk, dice = foe.correspondence(), foe.dice

    def spoil() -> list[bytes]:
        code = dice.choice(_WORDS)
        frames = talk.frames(code, dice.spoiled(payload_of(code, dice)))
        if dice.randrange(8) == 0:
            frames[1] = dice.spoiled(frames[1])
        return frames

    _by_connection(foe, count, 4 * FEW, spoil, talk)


def fields(foe: Foe, count: int) -> None:
    """Well-formed messages of the library whose numbers are any."""
    talk = foe.correspondence()

    def make() -> list[bytes]:
        return talk.frames(*talk.any_word())

    _by_connection(foe, count, 1 << 30, make, talk)


def sizes(foe: Foe, count: int) -> None:
    """A header that says another size than there is."""
    talk, dice = foe.correspondence(), foe.dice

    def lie() -> list[bytes]:
        frames = talk.frames(*talk.any_word())
        frames[1] = dice.number(64).to_bytes(8, "little") + frames[1][8:]
        return frames

    _by_connection(foe, count, FEW, lie, talk)


def codes(foe: Foe, count: int) -> None:
    """Codes of nobody, with and without a request, and payloads of other codes."""
    talk, dice = foe.correspondence(), foe.dice
    nobody = [code for code in range(FIRST_USER_CODE) if code not in set(wire.ROWS)]

    def make() -> list[bytes]:
        if dice.randrange(3) == 0:
            return talk.frames(dice.choice(nobody), dice.randbytes(dice.randrange(30)))
        if dice.randrange(2):
            return talk.frames(dice.randrange(64, 256), dice.randbytes(dice.randrange(30)))
        return talk.frames(dice.choice(_WORDS), payload_of(dice.choice(_WORDS), dice))

    _by_connection(foe, count, 1 << 30, make, talk)


def forged(foe: Foe, count: int) -> None:
    """Answers to requests that others have made, and numbers that were never given out."""
    talk, dice = foe.correspondence(), foe.dice

    def make() -> list[bytes]:
        way = dice.randrange(4)
        payload = dice.randbytes(dice.randrange(30))
        if way == 0:
            code = dice.choice((Code.RESP, Code.ERROR))
            frames = talk.frames(code, payload)
            return [frames[0], pack_message(code, dice.number(64), payload)]
        if way == 1:
            head = pack_envelope(dice.number(64), dice.number(64))
            return [head, pack_message(dice.choice(_WORDS), dice.number(64), payload)]
        if way == 2:
            code = dice.choice((Code.ACK, Code.PROBE, Code.CREDIT, Code.CANCEL))
            return talk.frames(code, payload_of(code, dice))
        return [pack_envelope(0, dice.number(64)), pack_message(Code.ACK, 0, b"")]

    _by_connection(foe, count, 1 << 30, make, talk)


def replayed(foe: Foe, count: int) -> None:
    """What was said before, again and in any order."""
    talk, dice = foe.correspondence(), foe.dice
    first = [talk.frames(*talk.any_word()) for _ in range(64)]
    told = iter(first)

    def again() -> list[bytes]:
        return next(told, None) or dice.choice(first)

    _by_connection(foe, count, 1 << 30, again)


def hellos(foe: Foe, count: int) -> None:
    """A second hello: the same, of another member, another epoch, another group."""
    dice, target = foe.dice, foe.target
    talk: Correspondence = foe.correspondence()

    def make() -> list[bytes]:
        other = dice.choice(
            (
                {},
                {"vmid": target.vmid},
                {"vmid": dice.number(32)},
                {"epoch": dice.number(64)},
                {"group": b"another"},
                {"magic": dice.number(32)},
            )
        )
        frames = foe.hello(**other)
        if dice.randrange(2):
            payload = frames[1][17:]
            frames = talk.frames(Code.HELLO, payload)
        return frames

    _by_connection(foe, count, 4 * FEW, make, talk)
