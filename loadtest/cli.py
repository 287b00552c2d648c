"""Parse a command line, run the command, and turn its errors into one line and a status."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Sequence

import tyro

from loadtest.commands import COMMANDS, Command, Load
from loadtest.errors import UNUSABLE, LoadTestError
from loadtest.validation import refuse_repeats

PARSER = (tyro.conf.FlagCreatePairsOff,)  # `--fresh` has no `--no-fresh`


def parse(name: str, arguments: Sequence[str]) -> Command:
    """Return the command with its options. Raises UsageError, or SystemExit (2) with tyro's text.

    For `load`, everything after `--` goes to Locust unparsed.
    """
    split = arguments.index("--") if name == "load" and "--" in arguments else len(arguments)
    cls = COMMANDS[name]
    command = tyro.cli(
        cls, prog=f"python -m loadtest {name}", description=inspect.getdoc(cls),
        args=list(arguments[:split]), config=PARSER,
    )  # fmt: skip
    refuse_repeats(arguments[:split])
    if not isinstance(command, Load):
        return command
    return dataclasses.replace(command, locust=(*command.locust, *arguments[split + 1 :]))


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit status. Raises KeyboardInterrupt when interrupted."""
    try:
        command = parse(name, arguments)
        return command.execute(" ".join(["python -m loadtest", name, *arguments]))
    except (OSError, LoadTestError) as error:
        print(f"loadtest {name}: {error}", file=sys.stderr)
        return UNUSABLE
