"""Rows that break a rule are reported in shards as they are in one file."""

import polars as pl
import pytest

from model.data.errors import DataError
from tests.support.shards import SCHEMA, differences, random_log

REQUIRED = SCHEMA.replace("of: user, kind: number", "of: user, kind: number, required: true")


def broken_log(case):
    """Return a log that breaks one rule, and its schema."""
    log = random_log().filter(pl.col("user_id").is_not_null()).sort("request_id", "position")
    row = pl.int_range(pl.len())
    values = {
        "an item twice": ("item_id", pl.col("item_id").shift()),
        "a position twice": ("position", pl.col("position").shift()),
        "two users": ("user_id", pl.lit("u99")),
        "two contexts": ("hour", pl.lit("late")),
        "two ages": ("age", pl.lit(99.0)),
        "an absurd price": ("price", pl.lit(1e30)),
        "a label that is no number": ("label", pl.lit(None)),
    }
    if case == "no age":
        age = pl.when(pl.col("user_id").is_in(["u3", "u4"])).then(None).otherwise("age")
        return log.with_columns(age=age), REQUIRED
    column, value = values[case]
    changed = pl.when(row.is_in([2, 258])).then(value).otherwise(column)
    return log.with_columns(changed.alias(column)), SCHEMA


CASES = [
    "an item twice", "a position twice", "two users", "two contexts", "two ages",
    "an absurd price", "a label that is no number", "no age",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_report_is_that_of_one_file(prepare, case):
    log, schema = broken_log(case)
    messages = []
    for shards in (None, 3):
        with pytest.raises(DataError) as caught:
            prepare("out", log, shards, schema=schema)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("case", CASES)
def test_the_same_rows_are_dropped(prepare, tmp_path, case):
    log, schema = broken_log(case)
    outputs, rejects = [], []
    for name, shards in (("one", None), ("three", 3)):
        path = tmp_path / "rejects.jsonl"
        outputs.append(prepare(name, log, shards, schema=schema, skip_bad_rows=path))
        rejects.append(path.read_text())
    assert rejects[0] == rejects[1] != ""
    assert differences(*outputs) == []


def test_lists_lose_rows_after_others_were_dropped_for_absurd_numbers(prepare, tmp_path):
    log, schema = broken_log("no age")
    log = log.with_columns(price=pl.when(pl.int_range(pl.len()) == 7).then(1e30).otherwise("price"))
    path = tmp_path / "rejects.jsonl"
    one, three = (
        prepare(name, log, shards, schema=schema, skip_bad_rows=path)
        for name, shards in (("one", None), ("three", 3))
    )
    assert differences(one, three) == []


def test_a_log_without_a_good_row_is_refused(prepare, tmp_path):
    log = random_log().with_columns(position=pl.lit(-1))
    with pytest.raises(DataError, match="at least one row that breaks no rule"):
        prepare("out", log, 3, skip_bad_rows=tmp_path / "rejects.jsonl")
