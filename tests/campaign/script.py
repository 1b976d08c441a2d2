"""What the seed of an act decides: the group's settings, who works in it, what disturbs it."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from libos_ipc import GroupConfig

__all__ = ["Script", "draw"]

#: How often each fault is chosen, by mood.
MOODS = {
    "calm": {"rest": 8, "stop": 1},
    "stops": {"rest": 4, "stop": 4},
    "deaths": {"rest": 4, "kill": 4, "stop": 1},
    "storm": {"rest": 1, "kill": 4, "stop": 3, "behead": 1, "depose": 1},
    "regicide": {"rest": 4, "behead": 3, "depose": 1, "kill": 1, "stop": 1},
}


class Script(NamedTuple):
    """`faults` are names with weights; `pause_s` is the longest time between two of them."""

    seed: int
    leader: str
    workers: int
    mood: str
    pause_s: float
    delegating: bool
    config: GroupConfig

    @property
    def faults(self) -> dict[str, int]:
        return MOODS[self.mood]

    def __str__(self) -> str:
        given = self.config
        return (
            f"act {self.seed}: {self.workers} workers, {self.mood}, leader {self.leader}, "
            f"{given.transport}, ranges of {given.id_range_size}, buffer {given.send_buffer}"
            f"{'' if given.lock_delegation else ', no delegation'}"
            f"{', eager delegation' if self.delegating else ''}"
        )


def draw(seed: int) -> Script:
    """The script of this seed."""
    rng = random.Random(seed)
    knobs: dict[str, Any] = {
        "transport": rng.choice(["auto", "native", "native", "zmq"]),
        "send_buffer": rng.choice([2**16, 2**20, 2**23]),
        "id_range_size": rng.choice([1, 4, 32]),
        "id_max": rng.choice([2000, 2**22 - 1]),
        "quarantine": rng.choice([0.0, 0.2, 180.0]),
        "lock_delegation": rng.choice([True, True, False]),
        "spin": rng.choice([0.0, 5e-5]),
        "fork_timeout": 5.0,
        "leader_stall": 0.3,
    }
    leader = rng.choice(["process", "embedded"])
    return Script(
        seed=seed,
        leader=leader,
        workers=rng.randint(2, 6),
        mood=rng.choice(list(MOODS)),
        pause_s=rng.choice([0.05, 0.2, 0.6]),
        # Only a leader in our own process can be told to give files away at once.
        delegating=leader == "embedded" and rng.random() < 0.5,
        config=GroupConfig(**knobs),
    )
