"""Scan the files of a log or table lazily, whatever their formats, as one table."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from model.data.dialect import CARRIAGE_RETURNS, Dialect, check_header, decode, find_problem
from model.data.errors import DataError
from model.data.files import Files, find_files, format_of, partition_values, shortened
from model.data.mending import Unreadable, mend
from service.engine.features.ids import EXACT_FLOATS

ROW = "__row"  # data row, counted from 1 through all files
ROWS_PER_FRAME = 1 << 23  # of one Parquet file
SNIFFED = 1000  # rows of a JSON file that are searched for names of columns
LISTS = ("categories", "vector")
NUMBERS = ("number", "statistic", "vector")
TEXTS = ("identifier", "category")
# The text that polars makes of a JSON list, or of an object or a list of lists.
_SCALAR = r'("(\\.|[^"\\])*"|-?\d[-+.eE\d]*|true|false|null)'
_JSON_LIST = rf"^\[({_SCALAR}(, ?{_SCALAR})*)?\]$"
# Text that polars may have made of a JSON boolean or of a float with more digits than it holds.
_NO_ID = r"^(true|false|-?\d{16,})$"
NO_ID = f"must be text or a whole number, and below {EXACT_FLOATS} if it is a float"
_BOOLEANS = {"true": "1", "false": "0"}
_NESTED = r'^(\{("(\\.|[^"\\])*": ?.*)?\}|\[[\[{].*\])$'


@dataclass(frozen=True)
class _Part:
    """One file: its lazy rows, the types of its columns, the number of its rows, and bad ones."""

    frame: pl.LazyFrame
    dtypes: dict[str, Any]
    count: int
    unreadable: Mapping[int, Unreadable] = field(default_factory=dict)


def scan_files(
    files: Files, kinds: Mapping[str, str], scratch: Path, mending: bool = True
) -> pl.LazyFrame:
    """Scan several files as one table, with ROW as its first column.

    A column that only some files have is null in the others. Columns of CSV stay text, so that
    errors can quote them. If files disagree about the type of a column, it becomes text, or lists
    of text.

    Args:
        files: counts, columns, remarks, frames and unreadable rows are filled here.
        kinds: kind of each column that will be read, as in a schema.
        scratch: an existing directory for files that must be decoded first.
        mending: read on behind rows of text that cannot be read, instead of raising.

    Raises DataError for a file that is no table, and if no file has a row.
    """
    parts = [_open(path, files, kinds, scratch, mending) for path in files.paths]
    files.counts[:] = [part.count for part in parts]
    files.columns[:] = [tuple(part.dtypes) for part in parts]
    if not sum(files.counts):
        raise DataError(files, "must have at least one row, got an empty file")
    full = [part for part in parts if part.count]
    columns = list(dict.fromkeys(name for part in full for name in part.dtypes))
    common = {
        name: _common_type([part.dtypes[name] for part in full if name in part.dtypes])
        for name in columns
    }
    offset = 1
    for path, part in zip(files.paths, parts, strict=True):
        if not part.count:
            continue
        for name, dtype in part.dtypes.items():
            if name == ROW:
                raise DataError(path, "is a name that prepare needs; rename it", column=name)
            if dtype == pl.Boolean != common[name] and kinds.get(name) in (*TEXTS, "categories"):
                raise DataError(path, NO_ID, column=name, value="Boolean")
        values = [
            _convert(name, part.dtypes.get(name, pl.Null()), common[name], kinds).alias(name)
            for name in columns
        ]
        # A slice of text would be found by reading all text before it.
        step = ROWS_PER_FRAME if format_of(path) == "parquet" else part.count
        for start in range(0, part.count, step):
            frame = part.frame.slice(start, step) if part.count > step else part.frame
            files.frames.append(frame.select(values).with_row_index(ROW, offset=offset + start))
            files.frame_rows.append(min(step, part.count - start))
        files.unreadable.update({row + offset - 1: bad for row, bad in part.unreadable.items()})
        offset += part.count
    return files.frames[0] if len(files.frames) == 1 else pl.concat(files.frames)


def scan_file(path: Path) -> pl.LazyFrame:
    """Scan one file in the default dialect, with ROW as its first column.

    Raises DataError for a file that does not exist, is no table, or is empty.
    """
    if not path.is_file():
        raise DataError(path, "no such file")
    return scan_files(find_files([path]), {}, path.parent, mending=False)


def require_agreement(files: Files, kinds: Mapping[str, str], optional: Collection[str]) -> None:
    """Check that a column that one file has is in all files, and note the `optional` ones.

    Raises DataError for a file that lacks another column of `kinds`.
    """
    full = [
        (path, columns)
        for path, columns, count in zip(files.paths, files.columns, files.counts, strict=True)
        if count
    ]
    for name in kinds:
        lacking = [path for path, columns in full if name not in columns]
        if not lacking or len(lacking) == len(full):
            continue
        if name not in optional:
            first = next(path for path, columns in full if name in columns)
            raise DataError(lacking[0], f"is missing; {first} has it", column=name)
        lack = f"{len(lacking):,} of {len(full):,} files lack it"
        files.remarks.append(
            f"column {name} is null where {lack}: {shortened([str(path) for path in lacking])}"
        )


def unreadable(files: Files | Path, error: Exception) -> DataError:
    """Return an error about the file that polars could not read, and the row if there is one."""
    paths, dialect = (
        ((files,), Dialect()) if isinstance(files, Path) else (files.paths, files.dialect)
    )
    for path in paths:
        kind = format_of(path)
        problem = None
        if kind != "parquet":
            problem = find_problem(path, kind == "ndjson", dialect)
        if problem is not None:
            return problem
    return DataError(files, f"cannot be read ({str(error).splitlines()[0]})")


def _open(
    path: Path, files: Files, kinds: Mapping[str, str], scratch: Path, mending: bool
) -> _Part:
    """Return one file with its partition columns."""
    kind = format_of(path)
    try:
        if kind == "parquet":
            frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            part = _Part(frame, dict(frame.collect_schema()), _count(frame))
        else:
            source, remark = decode(path, files.dialect, scratch, kind == "ndjson")
            files.remarks += [remark] if remark else []
            try:
                part = _scan_text(source, path, kinds, files.dialect)
            except pl.exceptions.ComputeError:
                mended = scratch / f"mended-{len(list(scratch.iterdir()))}.{kind}"
                delimiter = None if kind == "ndjson" else files.dialect.separator(path)
                unreadable_rows = mend(source, mended, delimiter) if mending else None
                if unreadable_rows is None:
                    raise
                part = _scan_text(mended, path, kinds, files.dialect)
                part = replace(part, unreadable=unreadable_rows)
                if not unreadable_rows:
                    files.remarks.append(f"{path} has quotes within fields, which are read as text")
    except pl.exceptions.NoDataError:
        return _Part(pl.LazyFrame(), {}, 0)
    except (pl.exceptions.PolarsError, OSError) as error:
        only = Files((path,), (str(path),), files.dialect)
        raise unreadable(only, error) from None
    constants = {
        name: value for name, value in partition_values(path).items() if name not in part.dtypes
    }
    frame = part.frame.with_columns(
        pl.lit(value, pl.String).alias(name) for name, value in constants.items()
    )
    dtypes = {**part.dtypes, **dict.fromkeys(constants, pl.String())}
    return replace(part, frame=frame, dtypes=dtypes)


def _scan_text(source: Path, path: Path, kinds: Mapping[str, str], dialect: Dialect) -> _Part:
    if format_of(path) == "ndjson":
        return _scan_ndjson(source, path, kinds)
    return _scan_csv(source, path, kinds, dialect)


def _count(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect(engine="streaming").item())


def _scan_csv(source: Path, path: Path, kinds: Mapping[str, str], dialect: Dialect) -> _Part:
    """Scan a CSV as text, so that errors quote it; lists of another separator become lists."""
    separator = dialect.separator(path)
    frame = pl.scan_csv(source, infer_schema=False, separator=separator, glob=False)
    dtypes: dict[str, Any] = dict(frame.collect_schema())
    check_header(path, list(dtypes), separator)
    # A scan of some columns would accept rows with too many fields, so all columns are read once.
    counts = frame.select(pl.len().alias(ROW), pl.all().count()).collect(engine="streaming")
    count = int(counts[ROW].item())
    for name, kind in kinds.items():
        if name not in dtypes:
            continue
        value: pl.Expr = pl.when(pl.col(name) != "").then(pl.col(name))  # an empty text in quotes
        if dialect.list_separator != "|" and kind in LISTS:
            value = split_parts(value, dialect.list_separator)
            dtypes[name] = pl.List(pl.String)
        frame = frame.with_columns(value.alias(name))
    return _Part(frame, dtypes, count)


def _scan_ndjson(source: Path, path: Path, kinds: Mapping[str, str]) -> _Part:
    """Scan lines of JSON as text, but columns of a kind that holds lists as lists of text.

    A column is absent if none of the first rows names it and all rows have null.
    """
    lines = pl.scan_lines(source, n_rows=SNIFFED, glob=False).collect().to_series()
    names: dict[str, None] = {}
    for line in lines:
        if line.strip():
            try:
                names.update(dict.fromkeys(dict(json.loads(line))))
            except (ValueError, TypeError) as error:
                if "\r" in line.strip():
                    raise DataError(path, CARRIAGE_RETURNS) from None
                raise pl.exceptions.ComputeError(str(error)) from None
    schema = dict.fromkeys([*names, *kinds], pl.String())
    frame = pl.scan_ndjson(glob.escape(str(source)), schema=schema).with_row_index(ROW, offset=1)
    single = [name for name, kind in kinds.items() if kind not in LISTS]
    rows = {name: _NESTED if name not in single else f"{_NESTED}|{_JSON_LIST}" for name in kinds}
    statistics = frame.select(
        pl.len().alias(ROW),
        *(pl.col(name).is_not_null().any().alias(f"has {name}") for name in kinds),
        *(
            pl.col(ROW).filter(pl.col(name).str.contains(rule)).min().alias(f"nested {name}")
            for name, rule in rows.items()
        ),
        *(
            pl.col(name).str.contains(_NO_ID).any().alias(f"no id {name}")
            for name, kind in kinds.items()
            if kind in TEXTS
        ),
    )
    (counts,) = statistics.collect(engine="streaming").to_dicts()
    for name in kinds:
        if (row := counts[f"nested {name}"]) is not None:
            value = frame.filter(pl.col(ROW) == row).select(name).collect().item()
            rule = "must hold one value" if name in single else "must hold a value or a flat list"
            raise DataError(path, rule, row=row, column=name, value=value)
        if counts.get(f"no id {name}"):
            _refuse_no_id(source, path, name)
    present = [name for name in schema if name in names or counts[f"has {name}"]]
    values = {
        name: _json_value(pl.col(name), kind) for name, kind in kinds.items() if name in present
    }
    dtypes = {
        name: pl.List(pl.String) if kinds.get(name) in LISTS else pl.String() for name in present
    }
    return _Part(frame.select(present).with_columns(**values), dtypes, counts[ROW])


def _json_value(text: pl.Expr, kind: str) -> pl.Expr:
    """Return a value from its text in a line of JSON; of numbers, true is 1, as in Parquet."""
    value = decode_list(text) if kind in LISTS else text
    if kind == "vector":
        return value.list.eval(pl.element().replace(_BOOLEANS))
    return value.replace(_BOOLEANS) if kind in NUMBERS else value


def _refuse_no_id(source: Path, path: Path, name: str) -> None:
    """Raise DataError for a boolean or an inexact float, which polars turned into an id."""
    lines = pl.scan_lines(source, glob=False).select(pl.first().alias("line"))
    rows = lines.filter(pl.col("line").str.strip_chars() != "").with_row_index(ROW, offset=1)
    key = re.escape(json.dumps(name, ensure_ascii=False))
    unquoted = rows.filter(pl.col("line").str.contains(rf"{key}\s*:\s*(true|false|-?\d.*[.eE])"))
    for batch in unquoted.collect_batches(maintain_order=True):
        for row, line in batch.iter_rows():
            value = json.loads(line).get(name)
            if isinstance(value, bool) or (isinstance(value, float) and abs(value) >= EXACT_FLOATS):
                raise DataError(path, NO_ID, row=row, column=name, value=value)


def decode_list(text: pl.Expr) -> pl.Expr:
    """Return the list that a JSON text or a `|`-separated text holds."""
    is_json = text.str.contains(_JSON_LIST)
    decoded = pl.when(is_json).then(text).str.json_decode(pl.List(pl.String))
    return pl.when(is_json).then(decoded).otherwise(split_parts(text, "|"))


def split_parts(text: pl.Expr, separator: str) -> pl.Expr:
    """Split text at a separator, strip the parts, and drop empty ones."""
    element = pl.element().str.strip_chars()
    return text.str.split(separator).list.eval(element.filter(element != ""))


def _common_type(dtypes: Sequence[Any]) -> Any:
    """Return the type of a column that has these types in some files."""
    present = {dtype for dtype in dtypes if dtype != pl.Null}
    if len(present) <= 1:
        return present.pop() if present else pl.String()
    nested = any(isinstance(dtype, (pl.List, pl.Array)) for dtype in present)
    return pl.List(pl.String) if nested else pl.String()


def _convert(name: str, dtype: Any, common: Any, kinds: Mapping[str, str]) -> pl.Expr:
    """Return a column as the common type, null if it is not to be read."""
    column = pl.col(name)
    if dtype == common:
        return column
    if dtype == pl.Null or name not in kinds:
        return pl.lit(None, common)
    kind = kinds[name]
    if common != pl.List(pl.String):
        return _as_text(column, dtype, kind)
    if isinstance(dtype, pl.Array):
        column, dtype = column.arr.to_list(), pl.List(dtype.inner)
    if isinstance(dtype, pl.List):
        return column.list.eval(_as_text(pl.element(), dtype.inner, kind))
    return split_parts(_as_text(column, dtype, kind), "|")


def _as_text(value: pl.Expr, dtype: Any, kind: str) -> pl.Expr:
    """Return the text by which a CSV would hold a value; whole floats have no decimals.

    NaN is null, except in numbers, where it breaks a rule as it does in a single file.
    """
    if isinstance(dtype, pl.Decimal):
        value, dtype = value.cast(pl.Float64), pl.Float64()
    if dtype.is_float():
        value = value.cast(pl.Float64)
        whole = value.cast(pl.Int64, strict=False)
        text = pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.cast(pl.String))
        return text if kind in NUMBERS else pl.when(value.is_not_nan()).then(text)
    if dtype == pl.Boolean and kind in NUMBERS:
        return value.cast(pl.Int8).cast(pl.String)
    if dtype.is_temporal() and kind == "time":
        return value.cast(pl.Datetime("ms")).dt.epoch("ms").cast(pl.String)
    return value.cast(pl.String)
