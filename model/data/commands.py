"""Commands of `python -m model prepare`, one for each source of data.

Fields are the options of the command line. Modules that read data are imported only when a command
runs, so that `--help` and wrong arguments need not wait for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from model.data.options import Paths


@dataclass(frozen=True)
class PrepareRanklens:
    """Prepare RankLens with three splits, in OUT/warm, OUT/cold and OUT/metarank."""

    out: Path = Path("build/ranklens")
    """Directory of the three data sets."""
    events: Path = Path("data/ranklens/events.jsonl.gz")
    """RankLens events, gzipped JSON lines."""
    permute_labels: Annotated[int | None, tyro.conf.arg(metavar="SEED")] = None
    """Permute the labels within each list; a model that still ranks better than chance then uses
    leaked labels."""

    def execute(self) -> int:
        """Write the data sets and print a summary. Raises DataError for broken events."""
        from model.data.prepare import prepare_ranklens

        return _print_summaries(prepare_ranklens(self.out, self.events, self.permute_labels))


@dataclass(frozen=True)
class PrepareImpressions:
    """Prepare a log of your own (docs/data.md)."""

    log: Paths
    """Files of the log, one row per request and candidate: paths, globs or directories of .parquet,
    .csv, .tsv or .jsonl, text also as .gz or .zst."""
    out: Path
    """Directory of the data set."""
    schema: Path | None = None
    """Feature schema, YAML. Only obp and libsvm have one of their own."""
    format: Literal["table", "metarank", "obp", "libsvm"] = "table"
    """Format of the log: the tables of docs/data.md, Metarank's events, Open Bandit's CSV, or
    LibSVM and LETOR."""
    interactions: tuple[str, ...] = ()
    """Of metarank: TYPE=LABEL for each type of interaction that counts. By default all types have
    the largest label of the schema."""
    list_gap_ms: int = 100
    """Of obp: milliseconds between rows of one list."""
    items: Paths = ()
    """Files of item features, likewise."""
    users: Paths = ()
    """Files of user features, likewise."""
    served: Path | None = None
    """Directory of a join whose log --log reads: its lists are then featurised with all their
    candidates, and with the histories and statistics that they were served with."""
    delimiter: str = ","
    """Character between the fields of a .csv; a .tsv always has tabs."""
    encoding: str = "utf-8"
    """Encoding of text files, such as cp1252, latin-1 or utf-16."""
    decimal: str = "."
    """Decimal mark of numbers in .csv and .tsv, a point or a comma."""
    list_separator: str = "|"
    """Character between the values of a list in one field of a .csv or .tsv."""
    split: Literal["time", "last-list", "user", "column"] | None = None
    """Split into train, valid and test. By default that of the log's column split, or else by
    time, or by each user's last list for a log that spans no more than an hour."""
    valid_share: float = 0.1
    """Share of the time that is valid, or of the users with --split user."""
    test_share: float = 0.1
    """Share of the time that is test, or of the users with --split user."""
    skip_bad_rows: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write rows that break a rule to this file, JSON lines with their reasons, and go on without
    them. By default they are an error."""
    shards: int | None = None
    """Number of shards. By default a log of up to 4 million rows is prepared as one file, and a
    longer one has a shard for each million rows."""
    engine: Literal["local", "ray"] = "local"
    """Where shards are prepared: in processes of this machine, or on Ray."""
    workers: int | None = None
    """Number of processes that prepare shards. By default one for each processor; a Ray cluster
    has its own."""

    def execute(self) -> int:
        """Write the data set and print a summary. Raises DataError for a bad log or schema."""
        from model.data.dialect import Dialect
        from model.data.formats.convert import Format
        from model.data.log_splits import SplitOptions
        from model.data.prepare import prepare_impressions
        from model.data.shards.options import ShardOptions

        dialect = Dialect(self.delimiter, self.encoding, self.decimal, self.list_separator)
        log, items, users = (
            tuple(itertools.chain(*paths)) for paths in (self.log, self.items, self.users)
        )
        splitting = SplitOptions(self.split, self.valid_share, self.test_share)
        form = Format(self.format, self.interactions, self.list_gap_ms)
        sharding = ShardOptions(self.engine, self.workers, self.shards)
        prepare_impressions(
            log, self.schema, self.out, items, users, splitting, dialect, self.skip_bad_rows, form,
            sharding, self.served,
        )  # fmt: skip
        return _print_summaries([self.out])


@dataclass(frozen=True)
class PrepareMovielens:
    """Prepare MovieLens-1M as lists of a first-stage retriever."""

    ratings: Path
    """ratings.dat, or a CSV of user_id, movie_id and rating."""
    movies: Path
    """movies.dat."""
    users: Path | None = None
    """users.dat."""
    out: Path = Path("build/movielens")
    """Directory of the data set."""

    def execute(self) -> int:
        """Write the data set and print a summary. Raises DataError for broken files."""
        from model.data.prepare import prepare_movielens

        prepare_movielens(self.out, self.ratings, self.movies, self.users)
        return _print_summaries([self.out])


@dataclass(frozen=True)
class PrepareKuairand:
    """Prepare KuaiRand as lists cut from sessions."""

    logs: Paths
    """log_standard_*.csv, one or more files."""
    videos: Path
    """video_features_basic_*.csv."""
    users: Path | None = None
    """user_features_*.csv."""
    label: Literal["is_click", "long_view"] = "is_click"
    """Column of the log to use as the label."""
    gap: int = 30
    """Minutes without an exposure after which a session ends."""
    length: int = 10
    """Maximum number of exposures in a list."""
    shortest: int = 5
    """Minimum number of exposures in a list; shorter lists are dropped."""
    out: Path = Path("build/kuairand")
    """Directory of the data set."""

    def execute(self) -> int:
        """Write the data set and print a summary. Raises DataError for broken files or options."""
        from model.data.errors import DataError
        from model.data.kuairand import SessionOptions
        from model.data.prepare import prepare_kuairand

        logs = tuple(itertools.chain(*self.logs))
        if not logs:
            raise DataError(Path("--logs"), "must name at least one file")
        options = SessionOptions(self.label, self.gap, self.length, self.shortest)
        prepare_kuairand(self.out, logs, self.videos, self.users, options)
        return _print_summaries([self.out])


@dataclass(frozen=True)
class Prepare:
    """Write a canonical data set (docs/data.md)."""

    source: tyro.conf.OmitSubcommandPrefixes[
        Annotated[PrepareRanklens, tyro.conf.subcommand("ranklens")]
        | Annotated[PrepareImpressions, tyro.conf.subcommand("impressions")]
        | Annotated[PrepareMovielens, tyro.conf.subcommand("movielens")]
        | Annotated[PrepareKuairand, tyro.conf.subcommand("kuairand")]
    ]
    """Source of the data."""

    def execute(self) -> int:
        """Run the command of the source and return its exit status, 0."""
        return self.source.execute()


@dataclass(frozen=True)
class Featurise:
    """Featurise a data set in shards ahead of training, which then only reads (docs/data.md)."""

    data: Path
    """Canonical data set, as `python -m model prepare` writes it."""
    splits: tuple[str, ...] = ("train", "valid")
    """Splits to featurise, as `train` reads them."""
    engine: Literal["local", "ray"] = "local"
    """Where shards are featurised: in processes of this machine, or on Ray."""
    workers: int | None = None
    """Number of processes. By default one for each processor; a Ray cluster has its own."""
    continue_from: Annotated[Path | None, tyro.conf.arg(name="from", metavar="PATH")] = None
    """Finished run that `train --from` will continue on this data set."""

    def execute(self) -> int:
        """Write the arrays that are not there yet, and print the number of lists."""
        from model.data.errors import DataError
        from model.data.layout import SPLITS
        from model.data.shards.featurise import featurise
        from model.data.shards.options import ShardOptions

        for split in self.splits:
            if split not in SPLITS:
                rule = f"must be some of {', '.join(SPLITS)}"
                raise DataError(Path("--splits"), rule, value=split)
        options = ShardOptions(self.engine, self.workers)
        lists = featurise(self.data, self.splits, options, self.continue_from)
        print(f"{self.data}: arrays of {lists:,} lists ({', '.join(self.splits)})")
        return 0


@dataclass(frozen=True)
class Titles:
    """Write the titles of RankLens's movies that the service's page /playground prints."""

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle whose items get their titles."""
    events: Path = Path("data/ranklens/events.jsonl.gz")
    """RankLens events, gzipped JSON lines."""
    out: Path = Path("service/playground/titles.json")
    """File of the titles."""

    def execute(self) -> int:
        """Write the file and print the number of titles. Raises BundleError or DataError."""
        from model.data.titles import read_titles, write_titles
        from service.engine.contract import Manifest
        from service.engine.features.loading import load_featuriser

        manifest = Manifest.read(self.bundle)
        movies = read_titles(self.events, load_featuriser(self.bundle, manifest).items.ids)
        write_titles(self.out, movies, manifest.name)
        print(f"{self.out}: {len(movies):,} titles")
        return 0


def _print_summaries(directories: Sequence[Path]) -> int:
    from model.data.canonical import summary_lines

    for directory in directories:
        for line in summary_lines(directory):
            print(line)
    return 0
