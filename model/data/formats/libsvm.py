"""Read LibSVM and LETOR files: `<label> qid:<list> <index>:<value> ... # comment`.

LightGBM's layout has no `qid:`, and beside NAME a file NAME.query with the sizes of its lists.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from model.data.errors import DataError
from model.data.files import Files
from model.data.formats.imported import Imported, write_table
from model.data.scan import ROW, unreadable
from service.engine.features.schema import GRADES

SPLITS = {"train": "train", "vali": "valid", "dev": "valid", "test": "test"}  # by part of the name
VALID_EVERY = 10  # this train list is valid if files are named for train and test only
RELATIVE = 64  # up to so many features are also compared within their list
QUERY = ".query"
LINES_PER_BATCH = 4_000
MOST_FEATURES = 10_000  # that are read without a schema, as each becomes a column of numbers
FORM = "must be LABEL [qid:LIST] INDEX:VALUE ... [# comment]"
_LINE = (
    r"^(?<label>\S+)(?:\s+qid:(?<qid>\S+))?(?<features>(?:\s+[^\s:#]+:[^\s:#]+)*)"
    r"\s*(?:#(?<comment>.*))?$"
)
_NAME = re.compile(r"f(0|[1-9][0-9]*)")
_DOCUMENT = r"docid\s*=\s*(\S+)"

Array = np.ndarray[Any, Any]


@dataclass
class _Summary:
    """Ranges over all lines: of the indices of features, and of the labels."""

    smallest: int = 1
    largest: int = 0
    highest: float = 1.0


@dataclass
class _Reader:
    """Reads the files one after the other.

    names  columns of the features to write
    lists  the file of each list read so far
    """

    files: Files
    splits: list[str | None]
    names: list[str] = field(default_factory=list)
    lists: dict[str, Path] = field(default_factory=dict)

    def batches(self, path: Path) -> Iterator[pl.DataFrame]:
        """Yield ROW, label, qid, features and comment of the lines of a file that have text."""
        text = pl.col("text").str.strip_chars()
        lines = pl.scan_lines(path, glob=False, name="text").with_columns(text)
        used = lines.filter((text != "") & ~text.str.starts_with("#")).with_row_index(ROW, offset=1)
        parts = used.with_columns(pl.col("text").str.extract_groups(_LINE).alias("parts"))
        try:
            for batch in parts.collect_batches(chunk_size=LINES_PER_BATCH, maintain_order=True):
                broken = batch.filter(pl.col("parts").struct.field("label").is_null())
                for line, _, text_of_line in broken.select(ROW, "parts", "text").head(1).rows():
                    raise DataError(path, FORM, row=line, value=text_of_line)
                yield batch.drop("text").unnest("parts")
        except pl.exceptions.PolarsError as error:
            raise unreadable(self.files, error) from None

    def summarise(self) -> _Summary:
        """Read all files, check their features and labels, and return the ranges."""
        summary = _Summary()
        for path in self.files.paths:
            count = 0
            for batch in self.batches(path):
                count += len(batch)
                indices = _features(path, batch)["index"]
                if len(indices):
                    low, high = indices.to_numpy().min(), indices.to_numpy().max()
                    summary.smallest = min(summary.smallest, int(low))
                    summary.largest = max(summary.largest, int(high))
                summary.highest = max(summary.highest, _labels(path, batch).max())
            self.files.counts.append(count)
        if not sum(self.files.counts):
            raise DataError(self.files, "must have at least one row, got an empty file")
        return summary

    def rows(self, index: int) -> Iterator[pl.DataFrame]:
        """Yield the rows of a file as columns of a log, with ROW."""
        path = self.files.paths[index]
        sizes = _sizes(path, self.files.counts[index])
        lists = itertools.count(1)
        last, position, number = None, 0, 0
        start = 0
        for batch in self.batches(path):
            if sizes is None:
                if batch["qid"].null_count():
                    line = batch.filter(pl.col("qid").is_null())[ROW][0]
                    rule = f"must have qid:LIST, as no file {path.name}{QUERY} has sizes of lists"
                    raise DataError(path, rule, row=line)
                names = batch["qid"]
            else:
                of_row = np.searchsorted(sizes, np.arange(start, start + len(batch)), side="right")
                names = pl.Series([f"{path.name}-{group + 1}" for group in of_row.tolist()])
            start += len(batch)
            positions, numbers = [], []
            for line, name in zip(batch[ROW], names, strict=True):
                if name != last:
                    self._open_list(path, line, name)
                    last, position, number = name, 0, next(lists)
                positions.append(position)
                numbers.append(number)
                position += 1
            yield self._columns(index, batch, names, positions, np.array(numbers))

    def _open_list(self, path: Path, line: int, name: str) -> None:
        """Note that a list begins. Raises DataError if it occurred before."""
        if name in self.lists:
            rule = f"must have consecutive lines in one file; it is before in {self.lists[name]}"
            raise DataError(path, rule, row=line, column="qid", value=name)
        self.lists[name] = path

    def _columns(
        self, index: int, batch: pl.DataFrame, names: pl.Series, positions: list[int],
        numbers: Array,
    ) -> pl.DataFrame:  # fmt: skip
        """Return the columns of one batch; numbers are those of the lists within the file."""
        path, split = self.files.paths[index], self.splits[index]
        document = batch["comment"].str.extract(_DOCUMENT)
        numbered = pl.Series(
            [f"{name}-{place}" for name, place in zip(names, positions, strict=True)]
        )
        columns: dict[str, pl.Series] = {
            ROW: batch[ROW] + sum(self.files.counts[:index]),
            "request_id": names,
            "item_id": document.zip_with(document.is_not_null(), numbered),
            "position": pl.Series(positions, dtype=pl.Int32),
            "label": pl.Series(_labels(path, batch)),
        }
        if split is not None:
            values = pl.Series([split]).new_from_index(0, len(batch))
            if split == "train" and "valid" not in self.splits and "test" in self.splits:
                chosen = pl.Series(numbers % VALID_EVERY == 0)
                values = pl.Series(["valid"]).new_from_index(0, len(batch)).zip_with(chosen, values)
            columns["split"] = values
        features = _features(path, batch)
        of_index = {int(name[1:]): place for place, name in enumerate(self.names)}
        column = features["index"].replace_strict(of_index, default=None, return_dtype=pl.Int64)
        used = column.is_not_null()
        dense = np.zeros((len(batch), len(self.names)))
        rows = features["row"].filter(used).to_numpy(), column.filter(used).to_numpy()
        dense[rows] = features["value"].filter(used).to_numpy()
        of_features = {name: pl.Series(dense[:, place]) for place, name in enumerate(self.names)}
        return pl.DataFrame({**columns, **of_features})


def is_libsvm(path: Path) -> bool:
    """Return whether a file can be one of this format: any but one with sizes of lists."""
    return not path.name.lower().removesuffix(".gz").endswith(QUERY)


def read_libsvm(
    files: Files, features: Sequence[str] | None, scratch: Path
) -> tuple[Imported, str, bool]:
    """Convert the files to a log with columns f<index>, 0 where a line has no such feature.

    If every name of a file has train, vali, dev or test in it, the log has a column `split`.

    Args:
        features: columns to write; all without it.

    Returns the log, the text of a schema of all features, and whether the log has a split.
    Raises DataError for a line that breaks the format.
    """
    files.foreign = tuple(path for path in files.foreign if is_libsvm(path))
    splits = [_split_of(path) for path in files.paths]
    has_split = None not in splits and "train" in splits
    reader = _Reader(files, splits if has_split else [None] * len(splits))
    summary = reader.summarise()
    indices = range(summary.smallest, summary.largest + 1)
    if features is None and len(indices) > MOST_FEATURES:
        rule = f"must have at most {MOST_FEATURES:,} indices, or a --schema that names some of them"
        raise DataError(files, rule, value=summary.largest)
    reader.names = names = _names(indices, features)
    parts: list[Path] = []
    for index in range(len(files.paths)):
        for rows in reader.rows(index):
            parts.append(scratch / f"libsvm-{len(parts)}.parquet")
            rows.write_parquet(parts[-1])
    log = write_table(files, pl.scan_parquet(parts), "libsvm", scratch)
    if has_split:
        files.remarks.append("splits are those in the names of the files")
        if "valid" not in splits and "test" in splits:
            files.remarks.append(f"every {VALID_EVERY}th train list is valid, as no file is")
    return log, _schema(names, summary.highest), has_split


def _names(indices: range, features: Sequence[str] | None) -> list[str]:
    """Return the columns of these indices that are among the features, or all of them."""
    if features is None:
        return [f"f{index}" for index in indices]
    chosen = {int(match[1]) for name in features if (match := _NAME.fullmatch(name))}
    return [f"f{index}" for index in sorted(chosen) if index in indices]


def _split_of(path: Path) -> str | None:
    name = path.name.lower()
    return next((split for part, split in SPLITS.items() if part in name), None)


def _sizes(path: Path, rows: int) -> Array | None:
    """Return the row after each list of a file in LightGBM's layout; None without sizes."""
    query = path.with_name(path.name + QUERY)
    if not query.is_file():
        return None
    texts = query.read_text(encoding="utf-8").split()
    for row, text in enumerate(texts, 1):
        if not text.isdecimal() or int(text) == 0:
            raise DataError(query, "must be a whole number above 0", row=row, value=text)
    ends = np.cumsum([int(text) for text in texts])
    if not len(ends) or ends[-1] != rows:
        rule = f"must hold sizes whose sum is the {rows:,} lines of {path.name}"
        raise DataError(query, rule, value=int(ends[-1]) if len(ends) else 0)
    return ends


def _features(path: Path, batch: pl.DataFrame) -> pl.DataFrame:
    """Return row (within the batch), index and value of each feature of each line."""
    tokens = (
        batch.select(ROW, pl.col("features").str.extract_all(r"\S+").alias("token"))
        .with_row_index("row")
        .explode("token")
        .drop_nulls("token")
    )
    pair = pl.col("token").str.split_exact(":", 1).struct
    parsed = tokens.with_columns(
        pair.field("field_0").cast(pl.UInt32, strict=False).alias("index"),
        pair.field("field_1").cast(pl.Float64, strict=False).alias("value"),
    )
    finite = pl.col("value").is_finite().fill_null(False)
    bad = parsed.filter(pl.col("index").is_null() | ~finite)
    for line, token in bad.select(ROW, "token").head(1).rows():
        rule = "must be INDEX:VALUE, a whole number and a finite one"
        raise DataError(path, rule, row=line, value=token)
    repeated = parsed.filter(pl.struct("row", "index").is_duplicated())
    for line, token in repeated.select(ROW, "token").head(1).rows():
        raise DataError(path, "must hold each index once", row=line, value=token)
    return parsed


def _labels(path: Path, batch: pl.DataFrame) -> Array:
    """Return the labels of a batch. Raises DataError for one that is no number of at least 0."""
    labels = batch["label"].cast(pl.Float64, strict=False)
    good = (labels.is_finite() & (labels >= 0)).fill_null(False)
    bad = batch.filter(~good)
    for line, text in bad.select(ROW, "label").head(1).rows():
        rule = "must be a number of at least 0"
        raise DataError(path, rule, row=line, column="label", value=text)
    return labels.to_numpy()


def _schema(names: Sequence[str], highest: float) -> str:
    """Return a schema with all features as numbers, and graded labels if some are above 1."""
    form = "exponential" if highest <= GRADES else "linear"
    gain = f", gain: {form}, positive: 1" if highest > 1 else ""
    relative = ", relative: true" if len(names) <= RELATIVE else ""
    lines = [f"  - {{name: {name}, of: candidate, kind: number{relative}}}" for name in names]
    head = f"name: libsvm\nlabel: {{range: [0, {highest:g}]{gain}}}\nfeatures:\n"
    return head + "\n".join(lines) + "\n"
