"""Copies of text files in which rows that cannot be read are empty, so that the others can."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.data.dialect import open_binary


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be read: the rule that it breaks, and what it holds instead."""

    text: str
    value: object
    data: dict[str, object]  # for the file of dropped rows


def mend(source: Path, target: Path, delimiter: str | None) -> dict[int, Unreadable] | None:
    """Copy a text file in UTF-8 to `target`, and return its unreadable rows by their number.

    Args:
        delimiter: of a CSV; None for lines of JSON.

    Returns None if the file cannot be copied, because its text is not UTF-8 for example.
    """
    broken: dict[int, Unreadable] = {}
    try:
        with open_binary(source) as file, target.open("w", encoding="utf-8", newline="") as copy:
            lines = (line.decode("utf-8-sig" if not number else "utf-8")
                     for number, line in enumerate(file))  # fmt: skip
            if delimiter is None:
                copy.writelines(_json_lines(lines, broken))
            else:
                writer = csv.writer(copy, delimiter=delimiter)
                # Not strict, all rows behind a quote without its end would be text of one field.
                rows = csv.reader(lines, delimiter=delimiter, strict=True)
                writer.writerows(_csv_rows(rows, broken))
    except (csv.Error, EOFError, OSError, UnicodeError):
        return None
    return broken


def _csv_rows(rows: Iterator[list[str]], broken: dict[int, Unreadable]) -> Iterator[list[str]]:
    """Yield the rows of a CSV, empty ones in place of those with too many fields."""
    header = next(rows, [])
    yield header
    for number, cells in enumerate(rows, 1):
        if len(cells) > len(header):
            text = f"must have {len(header)} fields"
            broken[number] = Unreadable(text, len(cells), {"fields": cells})
            cells = [""] * len(header)
        yield cells


def _json_lines(lines: Iterator[str], broken: dict[int, Unreadable]) -> Iterator[str]:
    """Yield lines of JSON, empty objects in place of those that are none."""
    number = 0
    for line in lines:
        if not line.strip():
            continue
        number += 1
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value, text = line.strip(), "must be JSON"
        else:
            text = "must be a JSON object"
        if not isinstance(value, dict):
            broken[number] = Unreadable(text, value, {"line": line.strip()})
            line = "{}\n"
        yield line if line.endswith("\n") else f"{line}\n"
