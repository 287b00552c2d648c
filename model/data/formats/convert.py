"""Convert the inputs of `prepare impressions` from the format that `--format` names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.data.dialect import Dialect
from model.data.errors import DataError
from model.data.files import Files, find_files
from model.data.formats.libsvm import is_libsvm, read_libsvm
from model.data.formats.metarank import is_metarank, read_metarank
from model.data.formats.open_bandit import read_open_bandit
from model.data.log_splits import SplitOptions
from model.data.schemas import SCHEMAS, load_schema
from service.engine.features.schema_rules import is_finite

# Files of a log in formats that are not tables: their test by name, and its rule.
LOGS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "metarank": (is_metarank, "must be named .jsonl or .ndjson, also with .gz or .zst"),
    "libsvm": (is_libsvm, "must not be named .query, which holds the sizes of lists"),
}


@dataclass(frozen=True)
class Format:
    """A format and its options.

    name          table, metarank, obp or libsvm
    interactions  of metarank: TYPE=LABEL for each type of interaction that counts
    gap           of obp: ms between rows of one list
    """

    name: str = "table"
    interactions: tuple[str, ...] = ()
    gap: int = 100

    def __post_init__(self) -> None:
        for option, value, of in (
            ("--interactions", self.interactions, "metarank"),
            ("--list-gap-ms", self.gap != 100, "obp"),
        ):
            if value and self.name != of:
                raise DataError(Path(option), f"must be used with --format {of}", value=self.name)
        if self.gap < 0:
            raise DataError(Path("--list-gap-ms"), "must be at least 0", value=self.gap)
        self.labels()

    def labels(self) -> dict[str, float]:
        """Return the label of each type. Raises DataError for an entry that is not TYPE=LABEL."""
        labels = {}
        for entry in self.interactions:
            name, _, text = entry.rpartition("=")
            try:
                labels[name] = float(text)
            except ValueError:
                labels[name] = float("nan")
            if not name or not is_finite(labels[name]):
                raise DataError(Path("--interactions"), "must be TYPE=LABEL", value=entry)
        return labels

    def find(
        self, arguments: dict[str, Sequence[Path]], dialect: Dialect | None
    ) -> dict[str, Files]:
        """Find the files of log, items and users.

        Raises DataError for a table that the format has in its log.
        """
        inputs = {}
        for role, names in arguments.items():
            if not names:
                continue
            if self.name in LOGS and role != "log":
                rule = f"must be absent, as the log of --format {self.name} holds all"
                raise DataError(Path(f"--{role}"), rule)
            rules = LOGS.get(self.name, ())
            inputs[role] = find_files(names, dialect, *rules)
        if "log" not in inputs:
            raise DataError(Path("--log"), "must name at least one file")
        return inputs


@dataclass(frozen=True)
class Tables:
    """Log and tables in the columns of docs/data.md, with their schema and the split to make."""

    log: Files
    items: Files | None
    users: Files | None
    schema: Path
    splitting: SplitOptions


def convert(
    inputs: dict[str, Files],
    schema: Path | None,
    form: Format,
    splitting: SplitOptions,
    scratch: Path,
) -> Tables:
    """Convert the inputs; tables stay as they are.

    Args:
        schema: feature schema; obp and libsvm have one of their own without it.

    Raises DataError for files that break a rule of the format, and without a schema.
    """
    log, items, users = inputs["log"], inputs.get("items"), inputs.get("users")
    if form.name == "obp":
        converted = read_open_bandit(log, form.gap, scratch)
        return Tables(converted, items, users, schema or SCHEMAS / "obp.yaml", splitting)
    if form.name == "libsvm":
        features = None if schema is None else [f.name for f in load_schema(schema).features]
        converted, text, has_split = read_libsvm(log, features, scratch)
        if schema is None:
            schema = scratch / "libsvm.yaml"
            schema.write_text(text, encoding="utf-8")
        if splitting.kind is None:
            kind = "column" if has_split else "user"
            splitting = dataclasses.replace(splitting, kind=kind)
        return Tables(converted, None, None, schema, splitting)
    if schema is None:
        raise DataError(Path("--schema"), f"must name a file with --format {form.name}")
    if form.name == "metarank":
        events = read_metarank(log, load_schema(schema), form.labels(), scratch)
        return Tables(events.log, events.items, events.users, schema, splitting)
    return Tables(log, items, users, schema, splitting)
