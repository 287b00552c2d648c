"""Rules for the rows of a log or table, and the report of all rows that break them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path

import polars as pl

from model.data.dialect import decimal_hint
from model.data.errors import ABSENT, DataError, Located, quote
from model.data.files import Files
from model.data.rejects import REASON, Rejects
from model.data.scan import ROW, unreadable

EXAMPLES = 10  # rows of each rule in a report
REPORTED = 30  # rules whose rows are listed; others are only counted
SKIP = "--skip-bad-rows FILE drops such rows into a file and goes on"


@dataclass(frozen=True)
class Rule:
    """A rule for a column: `violated` is true, never null, on rows that break the rule `text`."""

    column: str
    text: str
    violated: pl.Expr


@dataclass(frozen=True)
class BadRow:
    """One row that breaks a rule; `text` is the rule with what only this row makes known."""

    row: int
    text: str
    value: object = ABSENT


@dataclass(frozen=True)
class BrokenRule:
    """A rule of one input with the number of rows that break it, and the first of them."""

    files: Path | Files
    column: str
    text: str
    count: int
    examples: Sequence[BadRow]

    def lines(self) -> Iterator[str]:
        """Yield the lines of a report."""
        rows = f"{self.count:,} row{'s' if self.count > 1 else ''}"
        column = f", column {self.column}" if self.column else ""
        yield f"{self.files}{column}: {self.text}: {rows}"
        details = {""}
        for bad in self.examples:
            file, row = self.files, bad.row
            if isinstance(file, Located):
                file, row = file.locate(row)
            detail = bad.text.removeprefix(self.text)
            received = "" if bad.value is ABSENT else f" got {quote(bad.value)}"
            yield f"  {file}, row {row}:{received}{'' if detail in details else detail}"
            details.add(detail)  # a hint that repeats


@dataclass
class Report:
    """All broken rules of a log and its tables.

    Rows that break a rule leave the frames that are checked further, so that one mistake is not
    reported twice. With `rejects` they are written there, and nothing is raised. `advice` ends the
    report of several rows.
    """

    rejects: Rejects | None = None
    advice: str = SKIP
    broken: list[BrokenRule] = field(default_factory=list)
    first: tuple[BrokenRule, BadRow] | None = None

    def readable(self, files: Files, raw: pl.LazyFrame) -> pl.LazyFrame:
        """Report the rows that could not be read, and return the others."""
        texts = dict.fromkeys(bad.text for bad in files.unreadable.values())
        for text in texts:
            rows = [(row, bad) for row, bad in files.unreadable.items() if bad.text == text]
            examples = [BadRow(row, text, bad.value) for row, bad in rows[:EXAMPLES]]
            self._add([BrokenRule(files, "", text, len(rows), examples)])
        if not texts:
            return raw
        if self.rejects is not None:
            self.rejects.extend(
                files, ((row, bad.text, bad.data) for row, bad in files.unreadable.items())
            )
        return raw.filter(~pl.col(ROW).is_in([*files.unreadable]))

    def check(
        self,
        files: Path | Files,
        frame: pl.LazyFrame,
        rules: Sequence[Rule],
        raw: pl.LazyFrame | None = None,
        empty_lists: bool = False,
    ) -> pl.LazyFrame:
        """Check all rules in one pass, and return the rows of `frame` that break none.

        Args:
            frame: rows with ROW.
            raw: rows as the input has them, if `frame` has other values.
            empty_lists: report a request whose rows all lack an item as one without candidates.

        Raises DataError if the input cannot be read.
        """
        if not rules:
            return frame
        exclusive = _first_of_each_column(rules)
        counts = [pl.col(ROW).filter(v).len().alias(str(i)) for i, v in enumerate(exclusive)]
        try:
            totals = frame.select(counts).collect(engine="streaming").row(0)
        except pl.exceptions.PolarsError as error:
            raise unreadable(files, error) from None
        indices = [index for index, count in enumerate(totals) if count]
        if not indices:
            return frame
        violations = [exclusive[index].alias(str(index)) for index in indices]
        any_violated = reduce(or_, (exclusive[index] for index in indices))
        bad = frame.filter(any_violated)
        flags = bad.select(ROW, *violations).sort(ROW).collect(engine="streaming")
        examples = self._examples(files, bad, flags, rules, indices)
        if empty_lists:
            _name_empty_lists(frame, rules, examples)
        self._add([
            BrokenRule(files, rules[i].column, rules[i].text, totals[i], examples.get(i, ()))
            for i in indices
        ])  # fmt: skip
        if self.rejects is not None:
            texts = [
                pl.when(exclusive[i]).then(pl.lit(f"column {rules[i].column}: {rules[i].text}"))
                for i in indices
            ]
            reason = pl.concat_str(texts, separator="; ", ignore_nulls=True).alias(REASON)
            if raw is None:
                self.rejects.write(files, bad.with_columns(reason))
            else:
                self.rejects.write(files, raw.join(bad.select(ROW, reason), on=ROW))
        return frame.filter(~any_violated)

    def drop(
        self,
        files: Path | Files,
        frame: pl.LazyFrame,
        rule: tuple[str, str],
        bad: Sequence[BadRow],
        raw: pl.LazyFrame,
    ) -> pl.LazyFrame:
        """Report the rows that a rule about several rows forbids, and return the others.

        Args:
            rule: column and text.
            bad: all such rows, in their order.
            raw: rows as the input has them.
        """
        if not bad:
            return frame
        rows = pl.Series(ROW, [entry.row for entry in bad], pl.get_index_type())
        self._add([BrokenRule(files, *rule, len(bad), bad[:EXAMPLES])])
        if self.rejects is not None:
            texts = [f"column {rule[0]}: {entry.text}" for entry in bad]
            reasons = pl.LazyFrame([rows, pl.Series(REASON, texts)])
            self.rejects.write(files, raw.join(reasons, on=ROW))
        return frame.filter(~pl.col(ROW).is_in(rows.implode()))

    def raise_first(self) -> None:
        """Raise DataError for the first broken rule, unless rows are written to `rejects`.

        The first line of the message is about one row; if there are others, a report follows.
        """
        if self.first is None or self.rejects is not None:
            return
        broken, bad = self.first
        lines: list[str] = []
        if sum(rule.count for rule in self.broken) > 1:
            count = len(self.broken)
            lines.append(f"{count:,} rule{'s are' if count > 1 else ' is'} broken:")
            for rule in self.broken:
                lines += rule.lines()
            lines.append(self.advice)
        raise DataError(
            broken.files, bad.text, row=bad.row, column=broken.column or None, value=bad.value,
            report=lines,
        )  # fmt: skip

    def _add(self, broken: Sequence[BrokenRule]) -> None:
        """Keep broken rules, and the first row of all if there is none yet."""
        self.broken += broken
        if self.first is None:
            rule = min(broken, key=lambda rule: rule.examples[0].row if rule.examples else 1 << 63)
            self.first = rule, rule.examples[0]
        if self.rejects is not None:
            for rule in broken:
                if isinstance(rule.files, Files):
                    column = f", column {rule.column}" if rule.column else ""
                    rows = f"{rule.count:,} row{'s' if rule.count > 1 else ''}"
                    rule.files.remarks.append(f"{rows} dropped{column}: {rule.text}")

    @staticmethod
    def _examples(
        files: Path | Files,
        bad: pl.LazyFrame,
        flags: pl.DataFrame,
        rules: Sequence[Rule],
        indices: Sequence[int],
    ) -> dict[int, list[BadRow]]:
        """Return the first rows of the first rules, by the index of the rule."""
        rows_of = {
            index: flags.filter(pl.col(str(index)))[ROW].head(EXAMPLES).to_list()
            for index in indices
        }
        first = sorted(indices, key=lambda index: (rows_of[index][0], index))[:REPORTED]
        numbers = sorted({row for index in first for row in rows_of[index]})
        names = dict.fromkeys(rules[index].column for index in first)
        rows = bad.filter(pl.col(ROW).is_in(numbers)).select(ROW, *names).collect()
        values = {row[ROW]: row for row in rows.iter_rows(named=True)}
        return {
            index: [
                BadRow(
                    row,
                    rules[index].text + _hint(files, rules[index], values[row]),
                    values[row][rules[index].column],
                )
                for row in rows_of[index]
            ]
            for index in first
        }


def _hint(files: Path | Files, rule: Rule, values: dict[str, object]) -> str:
    if not isinstance(files, Files) or not rule.text.endswith("number"):
        return ""
    return decimal_hint(values[rule.column], files.dialect)


def _first_of_each_column(rules: Sequence[Rule]) -> list[pl.Expr]:
    """Return where each rule is the first of its column that a row breaks."""
    earlier: dict[str, pl.Expr] = {}
    exclusive = []
    for rule in rules:
        before = earlier.get(rule.column)
        exclusive.append(rule.violated if before is None else rule.violated & ~before)
        earlier[rule.column] = rule.violated if before is None else before | rule.violated
    return exclusive


def _name_empty_lists(
    frame: pl.LazyFrame, rules: Sequence[Rule], examples: dict[int, list[BadRow]]
) -> None:
    """Say of a row without an item if no row of its request has one, in place."""
    for index, rows in examples.items():
        if rules[index].column != "item_id":
            continue
        lacking = [bad.row for bad in rows if bad.value is None]
        if not lacking:
            continue
        named = frame.filter(pl.col(ROW).is_in(lacking)).select(ROW, "request_id").collect()
        requests = dict(named.iter_rows())
        listed = pl.col("request_id").is_in([*requests.values()]) & pl.col("item_id").is_not_null()
        others = set(frame.filter(listed).select("request_id").unique().collect().to_series())
        for position, bad in enumerate(rows):
            request = requests.get(bad.row)
            if bad.row in requests and request not in others:
                text = f"must name at least one candidate for request {request!r}"
                rows[position] = BadRow(bad.row, text, bad.value)


def check_rows(path: Path | Files, frame: pl.LazyFrame, rules: Sequence[Rule]) -> None:
    """Check all rules in one pass. Raises DataError with a report of all rows that break one."""
    report = Report()
    report.check(path, frame, rules)
    report.raise_first()
