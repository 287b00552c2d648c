"""Prepare a canonical data set (docs/data.md) from a public data set or from a user's log."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from model.data import labels, splits
from model.data.canonical import file_digests, write_canonical, write_tables
from model.data.chunks import cells_per_row
from model.data.dialect import Dialect
from model.data.errors import DataError
from model.data.files import Files
from model.data.formats.convert import Format, Tables, convert
from model.data.impressions import SPLIT_BY_LOG, read_impressions
from model.data.kuairand import SessionOptions, read_kuairand
from model.data.log_splits import SplitOptions
from model.data.movielens import read_movielens
from model.data.opened_log import open_log
from model.data.ranklens import read_ranklens
from model.data.rated_rows import refuse_memory_without_time
from model.data.rejects import Rejects
from model.data.replacement import SCRATCH, atomic_replacement
from model.data.schemas import SCHEMAS, load_schema
from model.data.served_files import files_of, write_served
from model.data.shards.driver import prepare_shards
from model.data.shards.options import ShardOptions
from model.data.shards.unfinished import Unfinished
from model.data.source import Source
from service.engine.features.schema import Schema

TABLES = Format()
BY_ROWS = ShardOptions()
RANKLENS_SPLITS = (splits.warm, splits.cold, splits.metarank)


def prepare_ranklens(out: Path, events: Path, permute_labels: int | None = None) -> list[Path]:
    """Write `out`/warm, `out`/cold and `out`/metarank, and return these directories.

    Raises DataError for broken events.
    """
    path = SCHEMAS / "ranklens.yaml"
    schema = load_schema(path)
    source = read_ranklens(events, schema, permute_labels)
    liked = (
        source.rows.filter(labels.is_positive(schema.label)).select("request_id").unique().collect()
    )
    arguments = {"source": "ranklens", "permute_labels": permute_labels}
    sources = file_digests([events])
    targets = [out / split.__name__ for split in RANKLENS_SPLITS]
    with atomic_replacement(targets) as directories:
        for directory, split in zip(directories, RANKLENS_SPLITS, strict=True):
            requests = source.requests
            if split is splits.metarank:  # its protocol leaves out lists without a like
                requests = requests.join(liked, on="request_id", how="semi", maintain_order="left")
            provenance = {"arguments": {**arguments, "split": split.__name__}, "sources": sources}
            write_canonical(directory, path, schema, source, split(requests), provenance)
    return targets


def prepare_movielens(out: Path, ratings: Path, movies: Path, users: Path | None = None) -> None:
    """Write `out` from the files of MovieLens-1M. Raises DataError for unusable files."""
    path = SCHEMAS / "movielens.yaml"
    schema = load_schema(path)
    source, retrieval = read_movielens(ratings, movies, users, schema)
    files = [file for file in (ratings, movies, users) if file is not None]
    provenance = {
        "arguments": {"source": "movielens"},
        "sources": file_digests(files),
        "retrieval": retrieval,
    }
    with atomic_replacement([out]) as (directory,):
        write_canonical(directory, path, schema, source, source.requests, provenance)


def prepare_kuairand(
    out: Path, logs: Sequence[Path], videos: Path, users: Path | None, options: SessionOptions
) -> None:
    """Write `out` from KuaiRand's standard logs. Raises DataError for unusable files."""
    path = SCHEMAS / "kuairand.yaml"
    schema = load_schema(path)
    with atomic_replacement([out]) as (directory,):
        scratch = directory / SCRATCH
        scratch.mkdir()
        source, dropped = read_kuairand(logs, videos, users, schema, options, scratch)
        files = [*logs, videos, *([] if users is None else [users])]
        provenance = {
            "arguments": {"source": "kuairand", **dataclasses.asdict(options)},
            "sources": file_digests(files),
            "dropped": dropped,
        }
        write_canonical(directory, path, schema, source, source.requests, provenance)
        shutil.rmtree(scratch)


def prepare_impressions(
    log: Path | Sequence[Path],
    schema: Path | None,
    out: Path,
    items: Path | Sequence[Path] | None = None,
    users: Path | Sequence[Path] | None = None,
    splitting: SplitOptions = SPLIT_BY_LOG,
    dialect: Dialect | None = None,
    skip_bad_rows: Path | None = None,
    form: Format = TABLES,
    sharding: ShardOptions = BY_ROWS,
    served: Path | None = None,
) -> None:
    """Write `out` from a user's log. Raises DataError for an unusable log, table or schema.

    Args:
        log: paths, globs and directories; `items` and `users` likewise.
        schema: may be None for a format that has a schema of its own.
        skip_bad_rows: file for rows that break a rule; without it they are an error.
        form: format of the log.
        sharding: engine, workers and number of shards.
        served: directory of a join with the lists as they were served.
    """
    if schema is not None:
        load_schema(schema)  # a mistake there is reported before any file is read
    arguments = _by_role(log=log, items=items, users=users)
    inputs, unfinished = form.find(arguments, dialect), None
    of_join = [] if served is None else files_of(served)
    with atomic_replacement([out]) as (directory,):
        scratch = directory / SCRATCH
        scratch.mkdir()
        rejects = _open_rejects(skip_bad_rows, out, inputs, schema)
        tables = convert(inputs, schema, form, splitting, scratch)
        place, feature_schema = (directory, tables.schema), load_schema(tables.schema)
        opened = open_log(tables.log, feature_schema, scratch, rejects)
        describe = partial(_describe, inputs, tables, form, splitting, rejects, of_join)
        if served is not None:
            write_served(directory, served, feature_schema)
        width = cells_per_row(opened.read(opened.good))
        shards = sharding.count_shards(sum(tables.log.counts), width)
        if shards is None:
            source = read_impressions(opened, scratch, tables.items, tables.users, tables.splitting)
            provenance = describe(source, feature_schema)
            write_canonical(*place, feature_schema, source, source.requests, provenance)
        else:
            options = arguments, splitting, dialect, form, skip_bad_rows
            unfinished = Unfinished(directory, [*inputs.values()], tables.schema, options)
            of_caller = {"item": tables.items, "user": tables.users}
            with unfinished.stages(sharding, shards) as stages:
                prepared = prepare_shards(
                    directory, opened, of_caller, tables.splitting, shards, stages, scratch
                )
                provenance = describe(prepared.source, feature_schema)
                write_tables(
                    *place, feature_schema, prepared.source, prepared.counts,
                    prepared.split_counts, provenance,
                )  # fmt: skip
        shutil.rmtree(scratch)
    if unfinished is not None:
        unfinished.remove()


def _by_role(**names: Path | Sequence[Path] | None) -> dict[str, Sequence[Path]]:
    """Return the paths of each role as a sequence."""
    return {role: [of] if isinstance(of, Path) else of or () for role, of in names.items()}


def _describe(
    inputs: dict[str, Files],
    tables: Tables,
    form: Format,
    splitting: SplitOptions,
    rejects: Rejects | None,
    of_join: Sequence[Path],
    source: Source,
    schema: Schema,
) -> dict[str, Any]:
    """Return the entries of summary.json about arguments, files and dropped rows.

    Raises DataError for a statistic that needs times which the log lacks.
    """
    assert source.moment is not None
    if source.moment.as_of is None:
        refuse_memory_without_time(schema, tables.schema)
    provenance = _describe_inputs(inputs, tables, form, splitting, source.moment.split, of_join)
    if rejects is not None:
        provenance["dropped"] = {f"bad rows, written to {rejects.path}": rejects.count}
    return provenance


def _describe_inputs(
    inputs: dict[str, Files],
    tables: Tables,
    form: Format,
    splitting: SplitOptions,
    split: str,
    of_join: Sequence[Path],
) -> dict[str, Any]:
    """Return the entries of summary.json about arguments and files."""
    names = {role: [Path(name).name for name in f.arguments] for role, f in inputs.items()}
    paths = [path for files in inputs.values() for path in files.paths]
    return {
        "arguments": {
            "source": "impressions",
            **({} if form == TABLES else {"format": dataclasses.asdict(form)}),
            **{role: n[0] if len(n) == 1 else n for role, n in names.items()},
            "schema": tables.schema.name,
            "split": split,
            "valid_share": splitting.valid_share,
            "test_share": splitting.test_share,
            **({"served": of_join[0].parents[1].name} if of_join else {}),
        },
        "sources": file_digests([*dict.fromkeys([*paths, *of_join, tables.schema])]),
        "inputs": [line for role, files in inputs.items() for line in files.describe(role)],
    }


def _open_rejects(
    path: Path | None, out: Path, inputs: dict[str, Files], schema: Path | None
) -> Rejects | None:
    """Return the file for bad rows, None without a path.

    Raises DataError if writing it would destroy other data.
    """
    if path is None:
        return None
    option, target = Path("--skip-bad-rows"), path.resolve()
    if target.is_relative_to(out.resolve()):
        raise DataError(option, "must lie outside of --out, which is replaced", value=str(path))
    read = [name for files in inputs.values() for name in files.paths]
    for other in read if schema is None else [schema, *read]:
        if other.resolve() == target:
            raise DataError(option, "must not be a file that is read", value=str(path))
    if not target.parent.is_dir() or target.is_dir():
        raise DataError(option, "must be a file in an existing directory", value=str(path))
    return Rejects(path)
