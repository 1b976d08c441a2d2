"""The command line: `libos-ipc`, also `python -m libos_ipc`.

Each command is a module of this package, or a package in it, whose `command` is a click command.
It is imported when it is asked for, so that none pays for another's imports. A command uses the
public names of `libos_ipc` alone, as any program would.

What ends a command ends it here: status 0, or what the command returns; 1 with one line on
stderr that says what is wrong; 2 for a usage error; 130 after Ctrl-C.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

import click

from libos_ipc.cli.complaints import complain, complain_of

__all__ = ["main"]

#: The commands, in the order in which `--help` lists them.
COMMANDS = ("demo", "run", "ps", "top", "kill", "ids", "locks", "stacks", "sync")


class _Commands(click.Group):
    """Finds a command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    package_name="libos-ipc", prog_name="libos-ipc", message="%(prog)s %(version)s"
)
def _libos_ipc() -> None:
    """Groups of processes: found them, look at them, see them at work."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line of `args`, by default the process's own; its exit status."""
    # What the library logs is for programs; commands say themselves what is wrong.
    logging.getLogger("libos_ipc").addHandler(logging.NullHandler())
    try:
        status = _libos_ipc.main(args, prog_name="libos-ipc", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return complain(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has enough of it; keep the interpreter's own flush quiet, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return complain_of([error])
    return status or 0
