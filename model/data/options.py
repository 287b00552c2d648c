"""Options of a command line that take several values."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from model.data.errors import DataError

# Several paths after one option, which may be repeated: the paths of all its uses count.
Paths = tyro.conf.UseAppendAction[tuple[tuple[Path, ...], ...]]


def refuse_repeats(arguments: Sequence[str], options: Any) -> None:
    """Raise DataError if an option occurs twice, since tyro would drop the value of the first.

    Args:
        options: the command that was parsed; its options of the type `Paths` may be repeated.
    """
    used = itertools.takewhile(lambda argument: argument != "--", arguments)
    names = (name.partition("=")[0].replace("_", "-") for name in used if name.startswith("--"))
    command = getattr(options, "source", options)  # `prepare` has a command for each source
    fields = dataclasses.fields(command)
    lists = {f"--{field.name.replace('_', '-')}" for field in fields if "Paths" in str(field.type)}
    for name, count in Counter(names).items():
        if count > 1 and name not in lists:
            raise DataError(Path(name), f"must be passed once, got it {count} times")
