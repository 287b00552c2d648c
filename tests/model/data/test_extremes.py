"""Absurd numbers are refused by row and scale, and honest columns with heavy tails pass."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest

from model.data.errors import DataError
from model.data.extremes import extreme_rules
from model.data.scan import ROW
from service.engine.features.schema import Feature
from tests.support.logs import LOG, SCHEMA

ROWS = 200_000


def draw(name, seed=0):
    """Return honest values of a kind."""
    random = np.random.default_rng(seed)
    sparse = random.random(ROWS) < 0.03
    return {
        "log-normal": lambda: np.exp(3.0 * random.standard_normal(ROWS)),
        "prices": lambda: np.round(np.exp(3.0 + random.standard_normal(ROWS)), 2),
        "counts": lambda: random.poisson(3.0, ROWS).astype(float),
        "views": lambda: random.zipf(1.5, ROWS).astype(float),
        "power law": lambda: random.pareto(1.0, ROWS),
        "mostly zero": lambda: sparse * np.exp(3.0 * random.standard_normal(ROWS)),
        "one event": lambda: np.arange(ROWS) == 7.0,
        "both signs": lambda: random.standard_cauchy(ROWS),
        "milliseconds": lambda: 1.7e12 + random.integers(0, 10**9, ROWS),
        "constant": lambda: np.full(ROWS, 0.3),
        "nearly constant": lambda: np.append(np.full(ROWS, 0.3), [0.1 + 0.2, 0.7]),
        "few": lambda: np.array([0.1, 0.1001, 5e5, 1e9, -3.0]),
    }[name]().astype(np.float64)


HONEST = (
    *("log-normal", "prices", "counts", "views", "power law", "mostly zero", "one event"),
    *("both signs", "milliseconds", "constant", "nearly constant", "few"),
)


def absurd(values, transform):
    rows = pl.DataFrame({"x": values}).with_row_index(ROW, offset=1).lazy()
    feature = Feature("x", "candidate", "number", transform=transform)
    rules = list(extreme_rules(rows, [feature], len(values)))
    broken = [rows.filter(rule.violated).collect()["x"].to_list() for rule in rules]
    return [value for values in broken for value in values]


@pytest.mark.parametrize("transform", ["none", "log"])
@pytest.mark.parametrize("name", HONEST)
def test_honest_values_pass_and_an_absurd_one_among_them_does_not(name, transform):
    values = draw(name)
    assert absurd(values, transform) == []
    for planted in ([1e30], [-1e30, 1e25, 1e300]):
        spoilt = values.copy()
        spoilt[1 : 1 + len(planted)] = planted
        assert absurd(spoilt, transform) == planted


def test_the_sample_of_a_long_column_may_miss_the_absurd_number():
    values = np.tile(draw("prices"), 3)
    values[100_001] = 1e30
    assert absurd(values, "none") == [1e30]


PLACE = "must be within 9.22e+18 of the median"


@pytest.mark.parametrize("transform", ["none", "log"])
@pytest.mark.parametrize("value", ["1e30", "-1e300"])
def test_an_absurd_number_of_a_log_is_named_by_row_column_and_scale(shop, transform, value):
    schema = SCHEMA.replace("of: candidate, kind", f"of: candidate, transform: {transform}, kind")
    pattern = rf"log\.csv, row 2, column price: {re.escape(PLACE)} .*, got -?1e\+30"
    with pytest.raises(DataError, match=pattern):
        shop(LOG.replace("office,7,", f"office,{value},"), schema)


def test_an_absurd_number_of_a_table_is_named_or_skipped(shop, tmp_path):
    schema = SCHEMA + "  - {name: weight, of: item, kind: number}\n"
    schema += "  - {name: age, of: user, kind: number}\n"
    tables = {"items": "item_id,weight\ntea,1\nink,2\nmug,1e30\n", "users": "user_id,age\nada,4\n"}
    with pytest.raises(DataError, match=rf"items\.csv, row 3, column weight: {re.escape(PLACE)}"):
        shop(schema=schema, **tables)
    out = shop(schema=schema, options=["--skip-bad-rows", tmp_path / "bad.jsonl"], **tables)
    items = pl.read_parquet(out / "items.parquet").select("item_id", "weight").rows()
    assert dict(items)["mug"] is None
    (line,) = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line)["data"] == {"item_id": "mug", "weight": "1e30"}


def test_a_number_that_the_fit_on_train_cannot_encode_is_named_by_its_request(shop):
    log = LOG.replace("3.5,9", "1,9").replace("7,9", "1,9").replace("1.5,10", "5e6,10")
    with pytest.raises(DataError, match="column price: must be within 1e") as caught:
        shop(log)
    place = "not for request_id 'r2', item_id 'pen'; the values of train have mean 1 and"
    assert f"{place} deviation 1, got 5000000.0" in str(caught.value)


def test_a_user_that_the_fit_on_train_cannot_encode_is_named(shop):
    schema = SCHEMA + "  - {name: age, of: user, kind: number}\n"
    log = LOG + "r3,bob,3,0,tea,1,,3,9\nr3,bob,3,1,mug,0,,3,9\n"
    log = "".join(f"{line},{'split' if not n else 'train' if n < 5 else 'test'}\n"
                  for n, line in enumerate(log.splitlines()))  # fmt: skip
    with pytest.raises(DataError, match=r"users\.parquet, column age: .* for user_id 'bob'"):
        shop(log, schema, users="user_id,age\nada,4\nbob,1e9\n")


def test_a_vector_with_a_number_that_a_request_may_not_have_is_refused(shop):
    schema = "name: s\nfeatures:\n  - {name: v, of: item, kind: vector, width: 2}\n"
    log = "request_id,user_id,position,item_id,label,v\nr,u,0,a,1,2e6|2\nr,u,1,b,0,\n"
    rule = r"row 1, column v: must hold numbers of size 1e\+06 at most, got '2e6\|2'"
    with pytest.raises(DataError, match=rule):
        shop(log, schema)
