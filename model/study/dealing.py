"""Ways to deal a log into files by user, which docs/reports/catalogue.md compares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from model.data.shards.exchange import TO, address, write_addressed

SHARDS = 40
ROWS_AT_ONCE = 1 << 21  # sorted in memory
MEMORY = "4GB"  # limit of DuckDB, which spills beyond it


def deal_by_partition(log: Path, out: Path, shards: int) -> None:
    """Deal by polars' streaming sink, as `prepare` does: a file for each shard."""
    rows = pl.scan_parquet(log / "*.parquet").with_columns(address("user_id", shards).alias(TO))
    rows.sink_parquet(pl.PartitionBy(out, key=TO, include_key=False), mkdir=True)


def deal_by_sort(log: Path, out: Path, shards: int) -> None:
    """Sort a few million rows at a time by shard: a file for each of these parts."""
    out.mkdir()
    rows = pl.scan_parquet(log / "*.parquet").with_columns(address("user_id", shards).alias(TO))
    held: list[pl.DataFrame] = []
    number = 0
    for batch in rows.collect_batches(maintain_order=True):
        held.append(batch)
        if sum(map(len, held)) >= ROWS_AT_ONCE:
            write_addressed(pl.concat(held), out / f"{number:06d}.parquet", shards)
            held, number = [], number + 1
    if held:
        write_addressed(pl.concat(held), out / f"{number:06d}.parquet", shards)


def deal_by_duckdb(log: Path, out: Path, shards: int) -> None:
    """Deal by DuckDB's partitioned copy, by its own hash: files for each shard."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET memory_limit='{MEMORY}'; SET preserve_insertion_order=false")
    connection.execute(
        f"COPY (SELECT *, hash(user_id) % {shards} AS shard FROM '{log}/*.parquet') "
        f"TO '{out}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (shard))"
    )


WAYS: dict[str, Callable[[Path, Path, int], None]] = {
    "polars partitions": deal_by_partition,
    "polars sort": deal_by_sort,
    "duckdb": deal_by_duckdb,
}


def main(arguments: Sequence[str]) -> None:
    """Deal a log by the way that the first argument names, from the second into the third."""
    way, log, out = arguments
    WAYS[way](Path(log), Path(out), SHARDS)


if __name__ == "__main__":
    main(sys.argv[1:])
