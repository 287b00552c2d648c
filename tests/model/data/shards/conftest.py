"""Fixtures with logs that are prepared in shards."""

import polars as pl
import pytest

from model.data.log_splits import SplitOptions
from model.data.prepare import prepare_impressions
from model.data.shards.options import ShardOptions
from tests.support.shards import SCHEMA


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares a log and returns the directory of the data set."""

    def write(name, log, shards=None, schema=SCHEMA, split=None, workers=1,
              engine="local", **options):  # fmt: skip
        paths = {"log": tmp_path / "log.parquet"}
        for role in ("items", "users"):
            if role in options:
                paths[role] = tmp_path / f"{role}.parquet"
                options.pop(role).write_parquet(paths[role])
        if isinstance(log, pl.DataFrame) and not paths["log"].exists():
            log.write_parquet(paths["log"])
        (tmp_path / "schema.yaml").write_text(schema)
        prepare_impressions(
            schema=tmp_path / "schema.yaml", out=tmp_path / name, splitting=SplitOptions(split),
            sharding=ShardOptions(engine, workers, shards), **paths, **options,
        )  # fmt: skip
        return tmp_path / name

    return write
