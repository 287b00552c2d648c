"""Logs in several files, formats and dialects."""

from __future__ import annotations

import gzip
import os
import random
import re

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.data.dialect import Dialect
from model.data.errors import DataError
from model.data.files import find_files
from model.data.log_splits import SplitOptions
from model.data.prepare import prepare_impressions
from tests.support.dialects import write_rows
from tests.support.logs import LOG, SCHEMA, digest_tree, prepare

TWIN_SCHEMA = """
name: twin
history: {limit: 8, kernels: [tags], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic, prior_strength: 10, relative: true}
  - {name: tags, of: item, kind: categories, width: 2}
  - {name: price, of: candidate, kind: number}
  - {name: brand, of: candidate, kind: category}
  - {name: hour, of: context, kind: category}
"""
DIALECTS = (
    Dialect(),
    Dialect(";", "utf-8", ",", "|"),
    Dialect(";", "cp1252", ",", "/"),
    Dialect("\t", "utf-16", ".", "/"),
    Dialect("|", "latin-1", ",", "/"),
)
TABLES = ("impressions.parquet", "items.parquet", "users.parquet")
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["ada", "bob", "zoë"]),
        st.integers(0, 3),  # hours, so that times repeat
        st.sampled_from([9, 10, None]),
        st.lists(
            st.tuples(
                st.integers(0, 1),
                st.lists(st.sampled_from(["hot", "new", "süß"]), max_size=2),
                st.none() | st.integers(0, 4000).map(lambda number: number / 8),
                st.none() | st.sampled_from(["ö", "a,b", 'say "x"', "c;d", "7"]),
            ),
            min_size=1,
            max_size=4,
        ),
    ),
    min_size=3,
    max_size=8,
)


def rows_of(requests):
    return [
        {
            "request_id": f"r{number}",
            "user_id": user,
            "timestamp": 1_700_000_000_000 + hours * 3_600_000,
            "position": position,
            "item_id": str(100 + (7 * number + position) % 9),
            "label": label,
            "tags": tags or None,
            "price": price,
            "brand": brand,
            "hour": hour,
        }
        for number, (user, hours, hour, candidates) in enumerate(requests)
        for position, (label, tags, price, brand) in enumerate(candidates)
    ]


def tables(out):
    return {name: digest for name, digest in digest_tree(out).items() if name in TABLES}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(REQUESTS, st.integers(0, 2**32), st.sampled_from(DIALECTS), st.integers(1, 5))
def test_a_log_in_any_files_gives_the_same_bytes_as_its_clean_twin(
    tmp_path_factory, requests, seed, dialect, count
):
    directory = tmp_path_factory.mktemp("twin")
    rows, rng = rows_of(requests), random.Random(seed)
    (directory / "schema.yaml").write_text(TWIN_SCHEMA)
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(directory / "clean.parquet")
    schema, splitting = directory / "schema.yaml", SplitOptions("last-list")
    clean = directory / "clean.parquet"
    prepare_impressions(clean, schema, directory / "a", splitting=splitting)
    rng.shuffle(rows)
    parts = directory / "parts"
    parts.mkdir()
    for number in range(count):
        if part := rows[number::count]:
            write_rows(parts, f"{rng.random()}-{number}", part, dialect, rng)
    prepare_impressions(parts, schema, directory / "b", splitting=splitting, dialect=dialect)
    assert tables(directory / "a") == tables(directory / "b")
    assert len(tables(directory / "a")) == len(TABLES)
