"""Signals by their names, as `kill` has them: TERM, SIGTERM, RTMIN+3, 15."""

from __future__ import annotations

import signal

import click

__all__ = ["name_of", "numbers", "signal_of"]


def numbers() -> list[int]:
    """The signals that programs may use."""
    return sorted(map(int, signal.valid_signals()))


def name_of(sig: int) -> str | None:
    """The usual name, without SIG; None if the number has none."""
    try:
        return signal.Signals(sig).name.removeprefix("SIG")
    except ValueError:
        return _real_time_names().get(sig)


def _real_time_names() -> dict[int, str]:
    """Those between the first and the last, named after the nearer one."""
    first, last = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    middle = (first + last) // 2
    names = {sig: f"RTMIN+{sig - first}" for sig in range(first + 1, middle + 1)}
    return names | {sig: f"RTMAX-{last - sig}" for sig in range(middle + 1, last)}


def _number_of(text: str) -> int | None:
    """The signal of this name or number, also 0, which is none; None if there is no such."""
    name = text.upper().removeprefix("SIG")
    base, sign, offset = name[:5], name[5:6], name[6:]
    if name.isdecimal():
        sig = int(name)
    elif base in ("RTMIN", "RTMAX") and sign and sign in "+-" and offset.isdecimal():
        sig = int(signal.Signals[f"SIG{base}"]) + int(sign + offset)
        if not signal.SIGRTMIN <= sig <= signal.SIGRTMAX:
            return None
    else:
        sig = int(signal.Signals.__members__.get(f"SIG{name}", -1))
    return sig if sig == 0 or sig in signal.valid_signals() else None


def signal_of(ctx: click.Context, param: click.Parameter, text: str) -> int:
    """The number of a signal on the command line; the callback of an option."""
    sig = _number_of(text)
    if sig is None:
        raise click.BadParameter(f"{text!r} is no signal; 'libos-ipc kill --list' shows them all.")
    return sig
