"""Fixtures with prepared data sets."""

import polars as pl
import pytest

from tests.support.logs import EVENTS, LOG, SCHEMA, prepare


@pytest.fixture(scope="session")
def ranklens(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranklens")
    printed = prepare("ranklens", "--events", EVENTS, "--out", out)
    return out, printed


@pytest.fixture(scope="session")
def warm(ranklens):
    return pl.read_parquet(ranklens[0] / "warm" / "impressions.parquet")


@pytest.fixture(scope="session")
def cold(ranklens):
    return pl.read_parquet(ranklens[0] / "cold" / "impressions.parquet")


@pytest.fixture
def shop(tmp_path):
    """Return a function that prepares a log and returns the directory of the data set."""

    def write(log=LOG, schema=SCHEMA, options=(), **tables):
        (tmp_path / "schema.yaml").write_text(schema)
        path = tmp_path / "log.csv"
        if isinstance(log, pl.DataFrame):
            path = path.with_suffix(".parquet")
            log.write_parquet(path)
        else:
            path.write_text(log)
        arguments = ["--log", path, "--schema", tmp_path / "schema.yaml"]
        for name, text in tables.items():
            (tmp_path / f"{name}.csv").write_text(text)
            arguments += [f"--{name}", tmp_path / f"{name}.csv"]
        prepare("impressions", *arguments, *options, "--out", tmp_path / "shop")
        return tmp_path / "shop"

    return write
