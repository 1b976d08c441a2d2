"""Hypothesis settings and strategies that the tests of the codec share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: The same examples in every run, and none refused for being slow.
SAME_EVERY_RUN = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)

u8 = st.integers(0, 2**8 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """`valid` as it is, cut, lengthened, with a few bytes changed, or something else entirely."""
    kind = draw(st.sampled_from(("whole", "cut", "longer", "changed", "other")))
    if kind == "cut":
        return valid[: draw(st.integers(0, len(valid)))]
    if kind == "longer":
        return valid + draw(st.binary(min_size=1, max_size=40))
    if kind == "other":
        return draw(st.binary(max_size=120))
    changed = bytearray(valid)
    if kind == "changed" and valid:
        for place in draw(st.lists(st.integers(0, len(valid) - 1), min_size=1, max_size=4)):
            changed[place] = draw(u8)
    return bytes(changed)
