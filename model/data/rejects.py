"""The file of rows that `prepare --skip-bad-rows` drops."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from model.data.errors import Located
from model.data.scan import ROW

REASON = "__reason"


class Rejects:
    """A file of JSON lines that is written anew: `file`, `row`, `reason` and `data` of each row.

    Raises OSError if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        path.write_bytes(b"")

    def write(self, files: Path | Located, rows: pl.LazyFrame) -> None:
        """Append rows that have ROW, REASON and the columns of the input."""
        batches = rows.sort(ROW).collect_batches(maintain_order=True)
        named = (row for batch in batches for row in batch.iter_rows(named=True))
        self.extend(files, ((row.pop(ROW), row.pop(REASON), row) for row in named))

    def extend(
        self, files: Path | Located, rows: Iterable[tuple[int, str, Mapping[str, Any]]]
    ) -> None:
        """Append the number, the reason and the data of each row."""
        with self.path.open("a", encoding="utf-8") as file:
            for row, reason, data in rows:
                path, place = files.locate(row) if isinstance(files, Located) else (files, row)
                line = {"file": str(path), "row": place, "reason": reason, "data": data}
                file.write(_encode(line) + "\n")
                self.count += 1


def _encode(line: dict[str, Any]) -> str:
    """Return a line as JSON, which has no numbers that are not finite: they become text."""
    try:
        return json.dumps(line, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        data = {name: _finite(value) for name, value in line["data"].items()}
        return json.dumps(line | {"data": data}, ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
