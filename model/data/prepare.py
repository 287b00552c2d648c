"""Write a canonical data set (docs/data.md): from public data sets, or from a user's own log."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from model.data import splits, statistics
from model.data.dataset import Dataset, load_schema
from model.data.errors import DataError
from model.data.kuairand import Sessions, read_kuairand
from model.data.movielens import read_movielens
from model.data.ranklens import read_ranklens
from model.data.sources import BASE, SPLITS, Source, read_log
from service.engine.features.schema import Schema

__all__ = ["add_arguments", "run"]

SCHEMAS = Path(__file__).parents[1] / "schemas"
RANKLENS_SPLITS = (splits.warm, splits.cold, splits.metarank)
SCRATCH = "log.parquet"
# Columns joined to those of features, whose names never begin so.
ORDER, FOLD = "__order", "__fold"
FILES = (
    "schema.yaml",
    "impressions.parquet",
    "histories.parquet",
    "items.parquet",
    "users.parquet",
    "summary.json",
)


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
    """Write the data set or sets and print one line for each split. Raises DataError."""
    written = [args.out]
    if args.source == "ranklens":
        prepare_ranklens(args.out, args.events, args.permute_labels)
        written = [args.out / split.__name__ for split in RANKLENS_SPLITS]
    elif args.source == "movielens":
        prepare_movielens(args.out, args.ratings, args.movies, args.users)
    elif args.source == "kuairand":
        sessions = Sessions(args.label, args.gap, args.length, args.shortest)
        prepare_kuairand(args.out, args.logs, args.videos, args.users, sessions)
    else:
        prepare_impressions(args.log, args.schema, args.out, args.items, args.users)
    for directory in written:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        for split, counts in summary["splits"].items():
            numbers = ", ".join(
                f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()
            )
            print(f"{directory} {split}: {numbers}")
        for split, quality in summary.get("retrieval", {}).items():
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in quality.items())
            print(f"{directory} {split}: {numbers}")
        if summary.get("dropped"):
            numbers = ", ".join(f"{count:,} {name}" for name, count in summary["dropped"].items())
            print(f"{directory} dropped: {numbers}")
        if summary["ignored_columns"]:
            print(f"{directory}: not in the schema: {', '.join(summary['ignored_columns'])}")
    return 0


def prepare_ranklens(out: Path, events: Path, permute_labels: int | None = None) -> None:
    """Write `out`/warm, `out`/cold and `out`/metarank. Raises DataError for broken events."""
    path = SCHEMAS / "ranklens.yaml"
    schema = load_schema(path)
    source = read_ranklens(events, schema, permute_labels)
    liked = source.rows.filter(pl.col("label") > 0.5).select("request_id").unique().collect()
    arguments = {"source": "ranklens", "permute_labels": permute_labels}
    sources = digests([events])
    with replaced([out / split.__name__ for split in RANKLENS_SPLITS]) as directories:
        for directory, split in zip(directories, RANKLENS_SPLITS, strict=True):
            requests = source.requests
            if split is splits.metarank:  # whose protocol knows no list without a like
                requests = requests.join(liked, on="request_id", how="semi", maintain_order="left")
            facts = {"arguments": {**arguments, "split": split.__name__}, "sources": sources}
            _write(directory, path, schema, source, split(requests), facts)


def prepare_movielens(out: Path, ratings: Path, movies: Path, users: Path | None = None) -> None:
    """Write `out` from a copy of MovieLens-1M. Raises DataError for files it cannot use."""
    path = SCHEMAS / "movielens.yaml"
    schema = load_schema(path)
    source, retrieval = read_movielens(ratings, movies, users, schema)
    files = [file for file in (ratings, movies, users) if file is not None]
    facts = {
        "arguments": {"source": "movielens"},
        "sources": digests(files),
        "retrieval": retrieval,
    }
    with replaced([out]) as (directory,):
        _write(directory, path, schema, source, source.requests, facts)


def prepare_kuairand(
    out: Path, logs: Sequence[Path], videos: Path, users: Path | None, sessions: Sessions
) -> None:
    """Write `out` from KuaiRand's standard logs. Raises DataError for files it cannot use."""
    path = SCHEMAS / "kuairand.yaml"
    schema = load_schema(path)
    with replaced([out]) as (directory,):
        scratch = directory / SCRATCH
        scratch.mkdir()
        source, dropped = read_kuairand(logs, videos, users, schema, sessions, scratch)
        files = [*logs, videos, *([] if users is None else [users])]
        facts = {
            "arguments": {"source": "kuairand", **dataclasses.asdict(sessions)},
            "sources": digests(files),
            "dropped": dropped,
        }
        _write(directory, path, schema, source, source.requests, facts)
        shutil.rmtree(scratch)


def prepare_impressions(
    log: Path, schema: Path, out: Path, items: Path | None = None, users: Path | None = None
) -> None:
    """Write `out` from a user's own log. Raises DataError for a log or schema it cannot use."""
    parsed = load_schema(schema)
    with replaced([out]) as (directory,):
        scratch = directory / SCRATCH
        source = read_log(log, parsed, scratch, items, users)
        given = "split" in source.requests.columns
        requests = source.requests if given else splits.warm(source.requests)
        if not (requests["split"] == "train").any():
            raise DataError(log, "at least one request of split train", column="split")
        files = {"log": log, "schema": schema, "items": items, "users": users}
        named = {name: path for name, path in files.items() if path is not None}
        facts = {
            "arguments": {
                "source": "impressions",
                **{name: path.name for name, path in named.items()},
                "split": "given" if given else "warm",
            },
            "sources": digests(named.values()),
        }
        _write(directory, schema, parsed, source, requests, facts)
        scratch.unlink()


def _write(
    directory: Path,
    schema_path: Path,
    schema: Schema,
    source: Source,
    requests: pl.DataFrame,
    facts: dict[str, Any],
) -> None:
    """Fit on the train split what statistics the source has not; write the files.

    Raises DataError or FeatureError for what the schema cannot be fitted to.
    """
    train = requests.filter(pl.col("split") == "train").select("request_id")
    train = train.with_columns(pl.Series(FOLD, statistics.folds(len(train))))
    ordered = requests.with_row_index(ORDER).join(train, on="request_id", how="left")
    columns = ["request_id", ORDER, "timestamp", "split", FOLD]
    rows = source.rows.join(ordered.lazy().select(columns), on="request_id")
    shown = rows.select("item_id", "label", fold=FOLD).drop_nulls("fold")
    counts = statistics.like_counts(shown)
    items = source.items
    for feature in schema.features:
        if feature.kind != "statistic" or feature.name in source.items.columns:
            continue
        table, unseen = statistics.like_rates(counts, feature.prior_strength)
        items = items.join(table.rename({"value": feature.name}), on="item_id", how="left")
        items = items.with_columns(pl.col(feature.name).fill_null(unseen))
        out_of_fold = statistics.out_of_fold_like_rates(counts, feature.prior_strength)
        renamed = out_of_fold.select(
            "item_id", pl.col("fold").alias(FOLD), pl.col("value").alias(feature.name)
        )
        rows = rows.join(renamed.lazy(), on=["item_id", FOLD], how="left")
    names = rows.collect_schema().names()
    inline = [f.name for f in schema.features if f.name in names and f.name not in BASE]
    first = ("request_id", "user_id", "timestamp", "position", "item_id", "label", "split")
    rows.sort(ORDER, "position").select(*first, *inline).sink_parquet(
        directory / "impressions.parquet", row_group_size=1 << 18
    )
    own = [f.name for f in schema.features if f.name in items.columns and f.name != "item_id"]
    items.sort("item_id").select("item_id", *own).write_parquet(directory / "items.parquet")
    own = [f.name for f in schema.features if f.name in source.users.columns and f.of == "user"]
    kept = ["user_id", *(name for name in own if name != "user_id")]
    source.users.select(kept).write_parquet(directory / "users.parquet")
    if source.histories is not None:
        source.histories.write_parquet(directory / "histories.parquet")
    shutil.copyfile(schema_path, directory / "schema.yaml")
    summary = {
        "name": schema.name,
        **facts,
        "splits": _split_counts(directory / "impressions.parquet"),
        "items": len(items),
        "users": len(source.users),
        "ignored_columns": source.ignored,
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    (directory / "summary.json").write_text(text, encoding="utf-8")
    Dataset(directory)  # what cannot be fitted is refused here, not by the training that comes


def _split_counts(impressions: Path) -> dict[str, dict[str, int]]:
    positive = pl.col("label") > 0.5
    requests = pl.scan_parquet(impressions).group_by("request_id", "split", "user_id")
    lists = requests.agg(pl.len().alias("rows"), positive.sum().alias("positives"))
    counts = lists.group_by("split").agg(
        pl.len().alias("requests"),
        pl.col("user_id").n_unique().alias("users"),
        pl.col("rows", "positives").sum(),
        (pl.col("positives") == 0).sum().alias("all_negative_lists"),
        (pl.col("positives") == pl.col("rows")).sum().alias("all_positive_lists"),
    )
    found = {row.pop("split"): row for row in counts.collect(engine="streaming").to_dicts()}
    return {split: found[split] for split in SPLITS if split in found}


@contextmanager
def replaced(directories: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a `.tmp` sibling for each; they take the directories' places only if all went well.

    Else what was there is there again; where the process was killed, with the next call. Raises
    DataError for a directory that holds anything but a data set.
    """
    places = [path.resolve() for path in directories]  # a link stays, what it names is replaced
    siblings = [path.with_name(f"{path.name}.tmp") for path in places]
    olds = [path.with_name(f"{path.name}.old") for path in siblings]  # X.old may be one's own copy
    for path in (*places, *siblings, *olds):
        _refuse_to_replace(path)
    for place, old in zip(places, olds, strict=True):
        if old.exists() and not place.exists():
            old.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    try:
        for sibling in siblings:
            shutil.rmtree(sibling, ignore_errors=True)
            sibling.mkdir(parents=True)
        yield siblings
        _swap(list(zip(siblings, places, olds, strict=True)))
    finally:
        for sibling in siblings:
            shutil.rmtree(sibling, ignore_errors=True)


def _swap(moves: Sequence[tuple[Path, Path, Path]]) -> None:
    """Move each new data set to its place; the old one is gone only when all of them are there."""
    try:
        for new, place, old in moves:
            if place.exists():
                place.rename(old)
            new.rename(place)
    except BaseException:
        for new, place, old in moves:
            if not new.exists():
                place.rename(new)
            if old.exists():
                old.rename(place)
        raise
    for _, _, old in moves:
        shutil.rmtree(old, ignore_errors=True)


def _refuse_to_replace(path: Path) -> None:
    """Only a data set may be replaced: a mistyped --out must not cost other files."""
    if path.exists() and not path.is_dir():
        raise DataError(path, "a directory for the data set, got a file")
    foreign = (
        sorted(f.name for f in path.iterdir() if f.name not in (*FILES, SCRATCH))
        if path.exists()
        else []
    )
    if foreign:
        raise DataError(
            path, f"a new directory or a data set to replace, got one with {foreign[0]!r}"
        )


def digests(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its name."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
