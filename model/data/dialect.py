"""Delimiters and encodings of text files, and messages for a file in another dialect."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from model.data.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
UTF_8 = ("utf-8", "utf-8-sig")
CHUNK = 1 << 20  # characters that are decoded at once
CARRIAGE_RETURNS = (
    "has lines that end with a carriage return alone; write them with line feeds, as by "
    "`tr '\\r' '\\n'`"
)
STRAY_QUOTE = (
    "has a quote that begins a field and does not end it; double each quote in a field and put "
    "quotes around it"
)
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")


@dataclass(frozen=True)
class Dialect:
    r"""The dialect of text files.

    delimiter       separates the fields of a .csv; a .tsv always has tabs
    encoding        Python's name of the encoding
    decimal         decimal mark of numbers in .csv and .tsv, a point or a comma
    list_separator  separates the values of a list in one field of a .csv or .tsv

    Raises DataError that names the option for a value that cannot be used.
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    decimal: str = "."
    list_separator: str = "|"

    def __post_init__(self) -> None:
        if self.delimiter == r"\t":
            object.__setattr__(self, "delimiter", "\t")
        for option, mark in (
            ("--delimiter", self.delimiter),
            ("--list-separator", self.list_separator),
        ):
            if len(mark) != 1 or not mark.isascii() or mark in '"\r\n':
                rule = "must be one ASCII character, neither a quote nor a line end"
                raise DataError(Path(option), rule, value=mark)
        if self.list_separator == self.delimiter:
            rule = "must differ from --delimiter"
            raise DataError(Path("--list-separator"), rule, value=self.list_separator)
        if self.decimal not in (".", ","):
            raise DataError(Path("--decimal"), "must be . or ,", value=self.decimal)
        try:
            object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)
            "".encode(self.encoding)
        except (LookupError, TypeError):
            rule = "must be the name of an encoding, such as utf-8, cp1252 or utf-16"
            raise DataError(Path("--encoding"), rule, value=self.encoding) from None

    def separator(self, path: Path) -> str:
        """Return the delimiter of a file, by its name."""
        return "\t" if ".tsv" in path.name.lower() else self.delimiter


def open_binary(path: Path) -> BinaryIO:
    """Open a plain or gzipped file for reading bytes."""
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(gzip.GzipFile(path))
    return path.open("rb")


def decode(path: Path, dialect: Dialect, scratch: Path, ndjson: bool) -> tuple[Path, str]:
    """Return the path of the file's text as UTF-8, and a remark for the user or an empty text.

    A file in another encoding is decoded into `scratch`. A file that is valid UTF-8 is read as such
    whatever the encoding, because no other text is valid by chance.

    Raises DataError for text that does not fit the encoding, or that looks like UTF-16.
    """
    if path.suffix.lower() == ".zst":
        if dialect.encoding not in UTF_8:
            rule = "must be UTF-8 inside .zst; decompress it, or compress it as .gz"
            raise DataError(path, rule, value=dialect.encoding)
        return path, ""
    try:
        with open_binary(path) as file:
            head = file.read(256)
        if dialect.encoding in UTF_8:
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
                raise DataError(path, "looks like UTF-16; pass --encoding utf-16")
            if not (ndjson and head.startswith(codecs.BOM_UTF8)):
                return path, ""
        elif _is_wide_utf_8(path):
            return path, f"{path} is UTF-8 and was read as such, not as {dialect.encoding}"
        suffix = "".join(path.suffixes).lower().removesuffix(".gz")
        target = scratch / f"decoded-{len(list(scratch.iterdir()))}{suffix}"
        with open_binary(path) as file, target.open("w", encoding="utf-8", newline="") as copy:
            encoding = "utf-8-sig" if dialect.encoding in UTF_8 else dialect.encoding
            reader = codecs.getreader(encoding)(file)
            while text := reader.read(CHUNK):
                copy.write(text)
    except UnicodeError as error:
        rule = f"cannot be decoded as {dialect.encoding} ({error}); pass another --encoding"
        raise DataError(path, rule) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, f"cannot be read ({error})") from None
    return target, ""


def _is_wide_utf_8(path: Path) -> bool:
    """Return whether a file is valid UTF-8 and has a character outside ASCII."""
    decoder, wide = codecs.getincrementaldecoder("utf-8")(), False
    with open_binary(path) as file:
        while block := file.read(CHUNK):
            wide = wide or not block.isascii()
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                return False
    return wide


def check_header(path: Path, columns: list[str], separator: str) -> None:
    """Raise DataError for a header that looks delimited or ended by another character."""
    if any("\r" in name for name in columns):
        raise DataError(path, CARRIAGE_RETURNS)
    if len(columns) != 1:
        return
    (header,) = columns
    if "\n" in header:
        raise DataError(path, STRAY_QUOTE, column="header", value=header.splitlines()[0])
    counts = {mark: header.count(mark) for mark in DELIMITERS if mark != separator}
    mark = max(counts, key=lambda key: counts[key])
    if counts[mark]:
        rule = f"has one column named {header!r}; pass --delimiter {mark!r}"
        if path.name.lower().startswith(".tsv", path.name.lower().find(".tsv")):
            rule = f"has one column named {header!r}, and a .tsv must have tabs; name it .csv"
        raise DataError(path, rule)


def decimal_hint(value: object, dialect: Dialect) -> str:
    """Return a hint if a value that should be a number has the wrong mark, else an empty text."""
    if not isinstance(value, str):
        return ""
    if dialect.decimal == ",":
        hint = "; with --decimal , a point is no part of a number, not even between thousands"
        return hint if "." in value else ""
    return "; for decimal commas pass --decimal ," if _DECIMAL_COMMA.fullmatch(value) else ""


def find_problem(path: Path, ndjson: bool, dialect: Dialect) -> DataError | None:
    """Return an error that names the first unreadable row of a text file, or None."""
    try:
        problem = _json_problem(path) if ndjson else _csv_problem(path, dialect)
    except (csv.Error, EOFError, OSError, zlib.error, UnicodeError):
        return None
    return problem


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file; in .zst, bytes that are not UTF-8 become U+FFFD."""
    if path.suffix.lower() == ".zst":
        options: dict[str, Any] = {"has_header": False, "separator": "\x01", "quote_char": None}
        lines = pl.scan_csv(path, encoding="utf8-lossy", infer_schema=False, glob=False, **options)
        for batch in lines.select(pl.first()).collect_batches():
            yield from ((line or "").encode() + b"\n" for line in batch.to_series())
        return
    with open_binary(path) as file:
        yield from file


def _csv_problem(path: Path, dialect: Dialect) -> DataError | None:
    """Find the first row with stray quotes, too many fields, or bytes that are not UTF-8."""
    encoding = "latin-1" if dialect.encoding in UTF_8 else dialect.encoding
    lines: list[bytes] = []  # of the row under way

    def text() -> Iterator[str]:
        for line in read_lines(path):
            lines.append(line)
            yield line.decode(encoding)

    width, row = None, 0
    rows = csv.reader(text(), delimiter=dialect.separator(path), strict=True)
    try:
        for row, cells in enumerate(rows):
            width = len(cells) if width is None else width
            if len(cells) > width:
                return DataError(path, f"must have {width} fields", row=row, value=len(cells))
            for cell in cells if dialect.encoding in UTF_8 else ():
                if error := _not_utf_8(path, cell.encode("latin-1"), row):
                    return error
            lines.clear()
    except csv.Error:
        if not lines:
            return None
        first = lines[0].decode("utf-8" if encoding == "latin-1" else encoding, "replace")
        number = None if width is None else row + 1
        return DataError(path, STRAY_QUOTE, row=number, value=first.rstrip("\r\n"))
    return None


def _json_problem(path: Path) -> DataError | None:
    """Find the first line that is no JSON object."""
    lines = (line for line in read_lines(path) if line.strip())
    for row, line in enumerate(lines, 1):
        if error := _not_utf_8(path, line, row):
            return error
        text = line.decode("utf-8").strip()
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            return DataError(path, "must be JSON", row=row, value=text)
        if not isinstance(value, dict):
            return DataError(path, "must be a JSON object", row=row, value=value)
    return None


def _not_utf_8(path: Path, text: bytes, row: int) -> DataError | None:
    """Return an error that names the first byte that is not UTF-8; row 0 is the header."""
    if text.isascii():
        return None
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        name = f"byte 0x{text[error.start]:02x}"
        rule = f"is not UTF-8 ({name}); pass --encoding, such as cp1252 or latin-1"
        return DataError(path, rule, row=row or None, column=None if row else "header")
    return None
