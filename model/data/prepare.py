"""Write a canonical data set (docs/data.md): from public data sets, or from a user's own log."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from model.data import commands, splits
from model.data.canonical import file_digests, write_canonical
from model.data.errors import DataError
from model.data.impressions import read_impressions
from model.data.kuairand import SessionOptions, read_kuairand
from model.data.movielens import read_movielens
from model.data.ranklens import read_ranklens
from model.data.replacement import SCRATCH, atomic_replacement
from model.data.schemas import SCHEMAS, load_schema

RANKLENS_SPLITS = (splits.warm, splits.cold, splits.metarank)


NOT_OPTIONS = ("command", "source")
COMMANDS = {
    "ranklens": commands.PrepareRanklens,
    "impressions": commands.PrepareImpressions,
    "movielens": commands.PrepareMovielens,
    "kuairand": commands.PrepareKuairand,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for each source."""
    sources = parser.add_subparsers(dest="source", required=True)
    ranklens = sources.add_parser("ranklens", help="RankLens: OUT/warm, /cold, /metarank")
    ranklens.add_argument("--out", type=Path, default=Path("build/ranklens"))
    ranklens.add_argument("--events", type=Path, default=Path("data/ranklens/events.jsonl.gz"))
    ranklens.add_argument(
        "--permute-labels",
        type=int,
        metavar="SEED",
        help="permute the labels within each list: what still ranks well then, leaks",
    )
    impressions = sources.add_parser("impressions", help="your own log, see docs/data.md")
    impressions.add_argument("--log", type=Path, required=True, help="Parquet or CSV")
    impressions.add_argument("--schema", type=Path, required=True, help="feature schema, YAML")
    impressions.add_argument("--out", type=Path, required=True, help="directory of the data set")
    impressions.add_argument("--items", type=Path, help="item features, Parquet or CSV")
    impressions.add_argument("--users", type=Path, help="user features, Parquet or CSV")
    movielens = sources.add_parser("movielens", help="MovieLens-1M: retrieve, then re-rank")
    movielens.add_argument("--ratings", type=Path, required=True, help="ratings.dat or a CSV")
    movielens.add_argument("--movies", type=Path, required=True, help="movies.dat")
    movielens.add_argument("--users", type=Path, help="users.dat")
    movielens.add_argument("--out", type=Path, default=Path("build/movielens"))
    kuairand = sources.add_parser("kuairand", help="KuaiRand: lists cut from sessions")
    kuairand.add_argument("--logs", type=Path, nargs="+", required=True, help="log_standard_*.csv")
    kuairand.add_argument("--videos", type=Path, required=True, help="video_features_basic_*.csv")
    kuairand.add_argument("--users", type=Path, help="user_features_*.csv")
    kuairand.add_argument("--label", choices=["is_click", "long_view"], default="is_click")
    kuairand.add_argument("--gap", type=int, default=30, help="minutes that end a session")
    kuairand.add_argument("--length", type=int, default=10, help="exposures in a list, at most")
    kuairand.add_argument("--shortest", type=int, default=5, help="drop shorter lists")
    kuairand.add_argument("--out", type=Path, default=Path("build/kuairand"))


def run(args: argparse.Namespace) -> int:
    """Run the command of one source with parsed arguments."""
    options = {name: value for name, value in vars(args).items() if name not in NOT_OPTIONS}
    return COMMANDS[args.source](**options).execute()


def prepare_ranklens(out: Path, events: Path, permute_labels: int | None = None) -> list[Path]:
    """Write `out`/warm, `out`/cold and `out`/metarank, and return these directories.

    Raises DataError for broken events.
    """
    path = SCHEMAS / "ranklens.yaml"
    schema = load_schema(path)
    source = read_ranklens(events, schema, permute_labels)
    liked = source.rows.filter(pl.col("label") > 0.5).select("request_id").unique().collect()
    arguments = {"source": "ranklens", "permute_labels": permute_labels}
    sources = file_digests([events])
    targets = [out / split.__name__ for split in RANKLENS_SPLITS]
    with atomic_replacement(targets) as directories:
        for directory, split in zip(directories, RANKLENS_SPLITS, strict=True):
            requests = source.requests
            if split is splits.metarank:  # whose protocol knows no list without a like
                requests = requests.join(liked, on="request_id", how="semi", maintain_order="left")
            provenance = {"arguments": {**arguments, "split": split.__name__}, "sources": sources}
            write_canonical(directory, path, schema, source, split(requests), provenance)
    return targets


def prepare_movielens(out: Path, ratings: Path, movies: Path, users: Path | None = None) -> None:
    """Write `out` from a copy of MovieLens-1M. Raises DataError for files it cannot use."""
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
    """Write `out` from KuaiRand's standard logs. Raises DataError for files it cannot use."""
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
    log: Path, schema: Path, out: Path, items: Path | None = None, users: Path | None = None
) -> None:
    """Write `out` from a user's own log. Raises DataError for a log or schema it cannot use."""
    feature_schema = load_schema(schema)
    with atomic_replacement([out]) as (directory,):
        scratch = directory / SCRATCH
        source = read_impressions(log, feature_schema, scratch, items, users)
        has_split = "split" in source.requests.columns
        requests = source.requests if has_split else splits.warm(source.requests)
        if not (requests["split"] == "train").any():
            raise DataError(log, "at least one request of split train", column="split")
        inputs = {"log": log, "schema": schema, "items": items, "users": users}
        present = {name: path for name, path in inputs.items() if path is not None}
        provenance = {
            "arguments": {
                "source": "impressions",
                **{name: path.name for name, path in present.items()},
                "split": "given" if has_split else "warm",
            },
            "sources": file_digests(present.values()),
        }
        write_canonical(directory, schema, feature_schema, source, requests, provenance)
        scratch.unlink()
