"""Some hundred misdeeds of each kind against a live group; of a million of each tells
`python -m tests.hostility --count 1000000`."""

from __future__ import annotations

import pytest
from hostility import members
from hostility.kinds import KINDS
from hostility.siege import besiege

#: Of what takes an attacker of its own every few misdeeds.
FEW, MANY = 600, 3000


@pytest.mark.parametrize("name", KINDS)
def test_misdeeds_end_nobody_and_concern_nobody_else(name: str) -> None:
    """A leader that is this process shows its own mistakes, too; one in a process of its own has
    lanes, and descriptors, of its own."""
    kind = KINDS[name]
    leader = "embedded" if name in members.__all__ else "process"
    outcome = besiege(kind, FEW if kind.life < FEW else MANY, seed=7, leader=leader)
    assert not outcome.complaints, outcome
    assert outcome.sent >= FEW
    assert outcome.deeds > 10
