"""The error that every reader of logs and data sets raises."""

from __future__ import annotations

from pathlib import Path

_ABSENT = object()


class DataError(ValueError):
    """Bad input, in one line: file, row, column, rule and value.

    `row` counts data rows from 1: a CSV's header is none, a JSON-lines file has one per line.
    """

    def __init__(
        self,
        file: Path,
        rule: str,
        *,
        row: int | None = None,
        column: str | None = None,
        value: object = _ABSENT,
    ) -> None:
        place = str(file)
        place += "" if row is None else f", row {row}"
        place += "" if column is None else f", column {column}"
        quoted = "null" if value is None else repr(value)
        quoted = quoted if len(quoted) <= 80 else f"{quoted[:77]}..."
        received = "" if value is _ABSENT else f", got {quoted}"
        super().__init__(f"{place}: {' '.join(rule.split())}{received}")
