"""The error that every reader of logs and data sets raises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

ABSENT: object = object()  # no value belongs into the message


@runtime_checkable
class Located(Protocol):
    """Several files that are read as one, with rows numbered through."""

    def locate(self, row: int) -> tuple[Path, int]:
        """Return the file of a row, and the number of the row within that file."""


class DataError(ValueError):
    """Input breaks a rule. The message is one line: file, row, column, rule and value.

    If many rows break rules, the lines of a report follow.

    Args:
        file: path of the input, several files that are read as one, or the name of a command-line
            option.
        rule: predicate that completes the sentence, such as "must be at least 0".
        row: data row, counted from 1, through all files. The header of a CSV is no data row. The
            message names the one file and the number of the row within it.
        column: column or field that breaks the rule.
        value: offending value; leave it out to omit it from the message.
        report: further lines of the message.
    """

    def __init__(
        self,
        file: Path | Located,
        rule: str,
        *,
        row: int | None = None,
        column: str | None = None,
        value: object = ABSENT,
        report: Sequence[str] = (),
    ) -> None:
        if isinstance(file, Located) and row is not None:
            file, row = file.locate(row)
        place = str(file)
        place += "" if row is None else f", row {row}"
        place += "" if column is None else f", column {column}"
        received = "" if value is ABSENT else f", got {quote(value)}"
        more = "".join(f"\n{line}" for line in report)
        super().__init__(f"{place}: {' '.join(rule.split())}{received}{more}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message alone, so that a worker process can raise the error to its parent."""
        return _unpickle, (type(self), str(self))


def _unpickle(kind: type[DataError], message: str) -> DataError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


def quote(value: object) -> str:
    """Return a value as a message has it, shortened to 80 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
