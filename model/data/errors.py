"""The error that every reader of logs and data sets raises."""

from __future__ import annotations

from pathlib import Path

_ABSENT = object()


class DataError(ValueError):
    """Input breaks a rule. The message is one line: file, row, column, rule and value.

    Args:
        file: path of the input, or the name of a command-line option.
        rule: predicate that completes the sentence, such as "must be at least 0".
        row: data row, counted from 1. The header of a CSV is no data row.
        column: column or field that breaks the rule.
        value: offending value; leave it out to omit it from the message.
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
