"""Prepare a log in shards: run the stages and take the decisions between them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from model.data import splits
from model.data.canonical import SplitCounts
from model.data.entities import LogInTime, complete_entities
from model.data.entity_tables import TIME, check_matches, read_entity_table
from model.data.errors import DataError
from model.data.files import Files
from model.data.impressions import check_schema_columns, note_order
from model.data.layout import COLUMNS, SHARD_FILES, SPLITS
from model.data.log_splits import (
    Division,
    SplitOptions,
    SplitTimes,
    choose_division,
    moment_of,
)
from model.data.moment import Moment
from model.data.opened_log import OpenedLog
from model.data.rankable import note_rankable
from model.data.rated_rows import RatedCounts
from model.data.shard_files import Shard, ShardFile, SplitSize, write_shards
from model.data.shards import counts, items, output, parts, requests
from model.data.shards.broken import BrokenRows, broken_requests, broken_users
from model.data.shards.exchange import addresses
from model.data.shards.options import count_partitions, rows_per_piece
from model.data.shards.plan import Piece, Plan
from model.data.shards.stages import Stages
from model.data.shards.totals import fold_lists, merge_totals, rate_items
from model.data.source import Source
from model.data.users import drop_anonymous, note_anonymous

Tables = Mapping[str, pl.DataFrame | None]  # of the caller, by item and user


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Tables and counts of a data set whose impressions lie in shards."""

    source: Source
    counts: RatedCounts
    split_counts: SplitCounts


def prepare_shards(
    directory: Path,
    opened: OpenedLog,
    tables: Mapping[str, Files | None],
    splitting: SplitOptions,
    shards: int,
    stages: Stages,
    scratch: Path,
) -> Prepared:
    """Write the impressions of a data set in shards, and return its tables and counts.

    Args:
        tables: files of the caller by their owner, item and user.
        scratch: existing directory for intermediate files of this process.

    Raises DataError for rows or tables that break a rule, Interruption if a stage cannot end.
    """
    log, collected, of_caller = _deal(opened, tables, shards, stages, scratch)
    results = list(collected.values())
    ends = [(r["first"], r["last"]) for r in results if r["lists"]]
    first, last = min(first for first, _ in ends), max(last for _, last in ends)
    files = opened.files
    for owner, table in of_caller.items():
        check_matches(tables[owner], log.rows(), f"{owner}_id", table)
    note_order(files, opened.timed)
    has_column = "split" in log.columns
    division = choose_division(files, splitting, has_column, opened.timed, first, last)
    divided = _divide(stages, [*collected], division, log)
    moment = _moment(opened, division, divided)
    note_anonymous(files, sum(result["anonymous"] for result in results))
    summed = _sum_splits([result["splits"] for result in divided.values()])
    rankable = {name: (c["requests"], c["rankable"]) for name, c in summed.items()}
    note_rankable(files, rankable, opened.schema.label)
    plan, pieces = _plan(opened, log, results, divided, moment, of_caller, last, stages)
    counted = stages.run("count", counts.count, {p.name: (plan, p) for p in pieces})
    of_pieces = [stages.path("count", name) for name in counted]
    totals = scratch / "totals"
    merge_totals(of_pieces, totals, plan)
    partitions = {f"{number:05d}": (plan, of_pieces, totals, number)
                  for number in range(plan.partitions)}  # fmt: skip
    merged = [stages.path("merge", name) for name in stages.run("merge", items.merge, partitions)]
    in_time = LogInTime(files, log.rows(), plan.cutoff, moment)
    source, rated = _tables(opened, in_time, plan, of_caller, [*collected], merged, totals)
    timed_tables = _timed_tables(of_caller, plan, scratch)
    written = stages.run(
        "write", output.write, {p.name: (plan, merged, timed_tables, p) for p in pieces}
    )
    _collect_files(directory, stages, pieces, written, list(divided.values()))
    distinct = {label for result in results for label in result["labels"]}
    names = ("requests", "users", "rows", "positives", "all_negative_lists", "all_positive_lists")
    of_splits = {s: {n: summed[s][n] for n in names} for s in SPLITS if s in summed}
    return Prepared(source, rated, SplitCounts(of_splits, has_grades=len(distinct) > 2))


def _deal(
    opened: OpenedLog,
    tables: Mapping[str, Files | None],
    shards: int,
    stages: Stages,
    scratch: Path,
) -> tuple[parts.DealtLog, dict[Path, Any], dict[str, pl.DataFrame | None]]:
    """Deal the rows into shards, check lists and users, and read the tables of the caller.

    The second result has the counts of each shard by the directory of its lists.
    """
    report = opened.checks.report
    tasks = {f"{i:05d}": (part, shards) for i, part in enumerate(parts.parts_of(opened, scratch))}
    stages.run("deal", parts.deal, tasks)
    dealt = parts.dealt_log([stages.path("deal", name) for name in tasks], opened, shards)
    broken = BrokenRows(opened, dealt, scratch)
    log = broken.drop_extremes()
    collected = _collect(stages, "collect", log)
    bad_requests = broken_requests(collected)
    broken.drop_lists(bad_requests)
    of_caller = {
        owner: read_entity_table(
            files, owner, opened.schema, opened.timed, scratch, opened.checks.report
        )
        for owner, files in tables.items()
    }
    bad_users = broken_users(log, collected.values(), bad_requests, of_caller["user"])
    broken.drop_users(bad_users, of_caller["user"])
    report.raise_first()
    if log != broken.log():
        log = broken.log()
        collected = _collect(stages, "collect-kept", log)
    if not any(result["rows"] for result in collected.values()):
        rule = "must have at least one row that breaks no rule, got none"
        raise DataError(opened.files, rule)
    return log, collected, of_caller


def _collect(stages: Stages, name: str, log: parts.DealtLog) -> dict[Path, Any]:
    """Return the counts of each shard by the directory of its lists."""
    tasks = {f"{shard:05d}": (log, shard) for shard in range(log.shards)}
    results = stages.run(name, requests.collect, tasks)
    return {stages.path(name, task): result for task, result in results.items()}


def _divide(
    stages: Stages, lists: Sequence[Path], division: Division, log: parts.DealtLog
) -> dict[Path, Any]:
    """Divide the lists of all shards; users that are held out are drawn here."""
    shards = log.shards
    divisions = [division] * shards
    if division.kind == "user":
        shares = division.options.valid_share, division.options.test_share
        drawn = splits.held_out_users(requests.users_in(lists), *shares)
        held_out = [pl.Series("user_id", users, pl.String) for users in drawn]
        places = [addresses(users, shards) for users in held_out]
        divisions = [
            dataclasses.replace(
                division,
                valid=held_out[0].filter(places[0] == shard).to_list(),
                test=held_out[1].filter(places[1] == shard).to_list(),
            )
            for shard in range(shards)
        ]
    tasks = {path.name: (path, rule, rows_per_piece(log.cells))
             for path, rule in zip(lists, divisions, strict=True)}  # fmt: skip
    results = stages.run("divide", requests.divide, tasks)
    return {stages.path("divide", name): result for name, result in results.items()}


def _sum_splits(of_shards: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Add up the counts of each split, and take the ends of its time and its longest list."""
    summed: dict[str, dict[str, int]] = {}
    for shard in of_shards:
        for split, numbers in shard.items():
            total = summed.setdefault(split, {})
            for name, number in numbers.items():
                reduce = {"first": min, "last": max, "longest": max}.get(name, lambda a, b: a + b)
                total[name] = reduce(total[name], number) if name in total else number
    return summed


def _moment(opened: OpenedLog, division: Division, divided: Mapping[Path, Any]) -> Moment:
    """Return the moment of the train split of all shards."""
    summed = _sum_splits([result["splits"] for result in divided.values()])
    times = {s: SplitTimes(c["requests"], c["first"], c["last"]) for s, c in summed.items()}

    def by_time() -> pl.DataFrame:
        lists = pl.scan_parquet([path / requests.REQUESTS for path in divided])
        order = ["timestamp", *(["request_id"] if opened.timed else [])]
        return lists.select("request_id", "timestamp").sort(order).collect()

    return moment_of(opened.files, division, times, opened.timed, by_time)


def _plan(
    opened: OpenedLog,
    log: parts.DealtLog,
    results: Sequence[Mapping[str, Any]],
    divided: Mapping[Path, Any],
    moment: Moment,
    of_caller: Tables,
    last: int,
    stages: Stages,
) -> tuple[Plan, list[Piece]]:
    """Return the plan of all tasks on pieces, and the pieces."""
    summed = _sum_splits([result["splits"] for result in divided.values()])
    nulls: dict[str, int] = {}
    for result in results:
        for name, count in result["nulls"].items():
            nulls[name] = nulls.get(name, 0) + count
    item_table, user_table = of_caller["item"], of_caller["user"]
    in_table = [] if item_table is None else item_table.columns
    item_features = [name for name in log.features("item") if name not in in_table]
    lacking = [n for n in item_features if nulls.get(n)] if moment.as_of is not None else []
    # Features of a caller's table over time are inline where the log has none of their values.
    over_time = {
        name
        for table in (item_table, user_table)
        if table is not None and TIME in table.columns
        for name in table.columns
        if name not in log.columns or nulls.get(name)
    }
    from_log = {feature.name for feature in opened.features if feature.of != "user"}
    statistics = {f.name for f in opened.schema.features if f.kind == "statistic"}
    inline = [f.name for f in opened.schema.features
              if f.name in from_log | over_time | statistics and f.name not in COLUMNS]  # fmt: skip
    shards = [(shard, result["pieces"]) for shard, result in enumerate(divided.values())]
    places = [(shard, index) for shard, count in shards for index in range(count)]
    pieces = [Piece(shard, index, number) for number, (shard, index) in enumerate(places)]
    folds = [] if moment.as_of is not None else fold_lists([*divided], opened.timed, stages)
    rows = sum(result["rows"] for result in results)
    plan = Plan(
        log=log,
        moment=moment,
        lists=[*divided],
        folds=folds,
        cutoff=summed["train"]["last"] if opened.timed else None,
        first_train=summed["train"]["first"],
        last=last,
        item_features=item_features,
        lacking=lacking,
        inline=inline,
        pieces=len(pieces),
        partitions=count_partitions(rows, len(item_features)),
    )
    return plan, pieces


def _tables(
    opened: OpenedLog,
    in_time: LogInTime,
    plan: Plan,
    of_caller: Tables,
    collected: Sequence[Path],
    merged: Sequence[Path],
    totals: Path,
) -> tuple[Source, RatedCounts]:
    """Return items with statistics and users, and the counts behind the statistics."""
    schema = opened.schema
    user_table = of_caller["user"]
    users = pl.read_parquet([path / requests.USERS for path in collected])
    if user_table is not None:
        users = users.drop([n for n in user_table.columns if n != "user_id"], strict=False)
    users = drop_anonymous(complete_entities(in_time, schema, "user", users, user_table))
    item_table = pl.read_parquet([path / counts.ITEMS for path in merged])
    item_table = complete_entities(in_time, schema, "item", item_table, of_caller["item"])
    check_schema_columns(opened, {"item": item_table, "user": users})
    item_table, rated = rate_items(item_table, plan, merged, totals)
    no_requests = pl.DataFrame()
    source = Source(
        in_time.rows, no_requests, item_table, users, opened.ignored(), moment=plan.moment
    )
    return source, rated


def _timed_tables(of_caller: Tables, plan: Plan, scratch: Path) -> list[output.TimedTable]:
    """Write the tables of the caller that change with time, for the tasks that read them."""
    tables = []
    for owner, table in of_caller.items():
        if table is None or TIME not in table.columns:
            continue
        path = scratch / f"{owner}s-over-time.parquet"
        table.write_parquet(path)
        names = tuple(name for name in plan.inline if name in table.columns)
        tables.append(output.TimedTable(path, f"{owner}_id", names))
    return tables


def _collect_files(
    directory: Path,
    stages: Stages,
    pieces: Sequence[Piece],
    written: Mapping[str, Mapping[str, Any]],
    divided: Sequence[Mapping[str, Any]],
) -> None:
    """Link the files of all pieces into the data set, and write their list.

    They stay where they are, too, until the data set is complete.
    """
    (directory / SHARD_FILES).mkdir()
    files: list[list[ShardFile]] = [[] for _ in divided]
    for piece in pieces:
        path = f"{SHARD_FILES}/{piece.name}.parquet"
        _link(stages.path("write", piece.name) / output.ROWS, directory / path)
        files[piece.shard].append(ShardFile(path, **written[piece.name]))
    shards = [
        Shard(
            of_shard,
            {
                split: SplitSize(numbers["requests"], numbers["rows"], numbers["longest"])
                for split, numbers in result["splits"].items()
            },
        )
        for of_shard, result in zip(files, divided, strict=True)
        if of_shard
    ]
    write_shards(directory, shards)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
