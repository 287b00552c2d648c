"""Rules about several rows of a log: those of one request, or of one user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from model.data.files import Files
from model.data.rules import BadRow, Report
from model.data.scan import ROW
from model.data.tables import REQUIRED
from service.engine.features.schema import Feature, Schema

ONCE = "must occur once per request"


@dataclass(frozen=True)
class LogChecks:
    """Checks of one log; each returns the rows that break no rule.

    files, report   of the log
    raw             rows as the log has them
    """

    files: Files
    report: Report
    raw: pl.LazyFrame

    def unique(self, log: pl.LazyFrame, column: str) -> pl.LazyFrame:
        """Check that no request has a value of `column` twice; the first row with it is kept."""
        key = ["request_id", column]
        counted = log.group_by(key).agg(pl.col(ROW).min().alias("__first"), pl.len().alias("__n"))
        repeated = counted.filter(pl.col("__n") > 1).collect(engine="streaming")
        if repeated.is_empty():
            return log
        rows = log.join(repeated.lazy(), on=key).filter(pl.col(ROW) > pl.col("__first"))
        bad = []
        for row, request, first, value in (
            rows.select(ROW, "request_id", "__first", column)
            .sort(ROW)
            .collect(engine="streaming")
            .iter_rows()
        ):
            text = f"{ONCE}; request {request!r} has it in {self._place(first)} too"
            bad.append(BadRow(row, text, value))
        return self._drop(log, column, ONCE, bad)

    def single(
        self, log: pl.LazyFrame, key: str, names: Sequence[str], nulls: bool = True, hint: str = ""
    ) -> pl.LazyFrame:
        """Check that all rows of a `key` have one value of each column; the first one is kept.

        Args:
            nulls: null is a value; else it agrees with every value.
            hint: end of the rule.
        """
        if not names:
            return log
        stated = [pl.col(name) if nulls else pl.col(name).drop_nulls() for name in names]
        counted = log.group_by(key).agg(value.n_unique() for value in stated)
        counts = counted.filter(pl.any_horizontal(pl.col(names) > 1)).collect(engine="streaming")
        kind = key.removesuffix("_id")
        rule = f"must be the same in all rows of a {kind}{hint}"
        for name in names:
            mixed = counts.filter(pl.col(name) > 1)[key]
            if mixed.is_empty():
                continue
            rows = log.filter(pl.col(key).is_in(mixed.implode()))
            rows = rows if nulls else rows.drop_nulls(name)
            first: dict[str, object] = {}
            bad = []
            for row, entity, value in (
                rows.select(ROW, key, name).sort(ROW).collect(engine="streaming").iter_rows()
            ):
                began = first.setdefault(entity, value)
                if value != began:
                    text = f"{rule}; {kind} {entity!r} began with {began!r}"
                    bad.append(BadRow(row, text, value))
            log = self._drop(log, name, rule, bad)
        return log

    def required(
        self, log: pl.LazyFrame, key: str, name: str, values: pl.LazyFrame
    ) -> pl.LazyFrame:
        """Check that every `key` of the log has a value; `values` holds key and `name`."""
        present = values.drop_nulls(name).select(key).unique().collect(engine="streaming")
        missing = log.filter(~pl.col(key).is_in(present[key].implode()))
        kind = key.removesuffix("_id")
        bad = [
            BadRow(row, f"{REQUIRED}, but {kind} {entity!r} has none")
            for row, entity in missing.select(ROW, key).sort(ROW).collect().iter_rows()
        ]
        return self._drop(log, name, REQUIRED, bad)

    def _drop(
        self, log: pl.LazyFrame, column: str, rule: str, bad: Sequence[BadRow]
    ) -> pl.LazyFrame:
        return self.report.drop(self.files, log, (column, rule), bad, self.raw)

    def _place(self, row: int) -> str:
        """Return the number of a row, with its file if there are several."""
        path, number = self.files.locate(row)
        return f"row {number}" if len(self.files.paths) == 1 else f"{path}, row {number}"


def check_lists(checks: LogChecks, log: pl.LazyFrame, features: Sequence[Feature]) -> pl.LazyFrame:
    """Check that a request has an item and a position once, and one user, split and context."""
    for column in ("item_id", "position"):
        log = checks.unique(log, column)
    single = [name for name in ("user_id", "split") if name in log.collect_schema()]
    contexts = [feature.name for feature in features if feature.of == "context"]
    return checks.single(log, "request_id", [*single, *contexts])


def check_users(
    checks: LogChecks, log: pl.LazyFrame, schema: Schema, table: pl.DataFrame | None
) -> pl.LazyFrame:
    """Check that users have one value of each feature in the log, and the required ones at all.

    Values may be null, but must agree otherwise, because a list would see the value of another
    time.
    """
    in_table = [] if table is None else table.columns
    features = [f for f in schema.features if f.of == "user" and f.name != "user_id"]
    present = log.collect_schema().names()
    in_log = [f.name for f in features if f.name in present and f.name not in in_table]
    log = checks.single(log, "user_id", in_log, nulls=False, hint=", or be of: context")
    for feature in features:
        source = log if feature.name in in_log else None
        if table is not None and feature.name in in_table:
            source = table.lazy()
        if feature.required and source is not None:
            log = checks.required(log, "user_id", feature.name, source)
    return log
