"""Options of the commands in this package, as frozen dataclasses that tyro parses.

Each field is a flag and its docstring the help text. `execute` imports what the command needs, so
that parsing stays fast.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal


def report_directory(out: Path | None, smoke: bool) -> Path:
    """Return `out`, or the default directory: docs/reports, for a miniature build/smoke/reports."""
    if out is not None:
        return out
    return Path("build/smoke/reports") if smoke else Path("docs/reports")


def cache_directory(cache: Path | None, smoke: bool, name: str) -> Path:
    """Return `cache`, or the default directory: build/NAME, for a miniature build/smoke/NAME."""
    if cache is not None:
        return cache
    return Path("build/smoke" if smoke else "build") / name


def command_line(name: str, command: object) -> str:
    """Return the shell line that runs a command with these options, defaults left out."""
    words = ["python -m model", name]
    for field in fields(command):  # type: ignore[arg-type]
        value = getattr(command, field.name)
        if value != field.default:
            words.append("--" + field.name.replace("_", "-"))
            if isinstance(value, tuple):
                words += map(str, value)
            elif value is not True:
                words.append(str(value))
    return " ".join(words)


@dataclass(frozen=True)
class FirstStage:
    """Write a data set again with the score of a LambdaMART first stage."""

    out: Path
    """Directory for the same lists with scores."""
    data: Path = Path("build/ranklens/warm")
    """Canonical data set to score."""

    def execute(self) -> int:
        """Write the scored data set and print NDCG@10 of the score's order, per split."""
        from model.study.first_stage import first_stage

        for split, ndcg in first_stage(self.data, self.out).items():
            print(f"{self.out} {split}: NDCG@10 {ndcg:.4f} in the order of the score")
        return 0


@dataclass(frozen=True)
class EvaluatorReport:
    """Report calibration and ranking quality of a finished run's evaluator on test lists."""

    run: Path = Path("build/checkpoints/ranklens")
    """Directory of a finished training run."""
    data: Path = Path("build/ranklens/warm")
    """Canonical data set whose test lists are used."""
    out: Path = Path("docs/reports")
    """Directory of the report."""
    page_only: bool = False
    """Write page and plots again from the JSON in --out, without training or measuring."""

    def execute(self) -> int:
        """Write evaluator.md, evaluator.json and the plot."""
        from model.study.evaluator_report import report

        report(self)
        return 0


@dataclass(frozen=True)
class World:
    """Train and report in a simulated environment whose best slates can be computed; resumes."""

    reward: Literal["evaluator", "law"] = "evaluator"
    """Reward of GRPO: a learned evaluator, or the click model's own expected clicks (law)."""
    config: Path | None = None
    """Training configuration, YAML; model/network/config.py lists its fields. Default:
    model/configs/world.yaml, or world_law.yaml for the law."""
    hosts: tuple[str, ...] = ("transformer", "gru", "pointer")
    """Host networks to compare."""
    out: Path | None = None
    """Directory of the report. Default: docs/reports, with --smoke build/smoke/reports."""
    cache: Path | None = None
    """Directory of finished cells. Default: build/NAME, --smoke: build/smoke/NAME, where NAME is
    world or world_law."""
    seeds: int = 5
    """Number of seeds."""
    run: Path | None = None
    """Print worth and regret of this one finished run and train nothing."""
    page_only: bool = False
    """Write page and plots again from the JSON in --out, without training or measuring."""
    smoke: bool = False
    """Run a miniature, for tests."""

    @property
    def name(self) -> str:
        """Name of the report and of its default cache and configuration."""
        return "world_law" if self.reward == "law" else "world"

    def execute(self) -> int:
        """Write the report, or print the figures of one run."""
        from model.study.world_report import report

        report(self)
        return 0


@dataclass(frozen=True)
class Throughput:
    """Measure requests per second of GRPO rounds and print the most expensive operators."""

    config: Path = Path("model/configs/ranklens.yaml")
    """Training configuration, YAML; model/network/config.py lists its fields."""
    data: Path = Path("build/ranklens/warm")
    """Canonical data set."""
    threads: int = 1
    """Number of torch threads."""
    rounds: int = 16
    """Number of timed rounds."""
    batch: int | None = None
    """Requests per round. Default: as the configuration says."""
    items: tuple[int, ...] = ()
    """Measure instead all stages on generated logs of so many item ids, with the whole table and
    with rows of it updated, compare laws and starts of the table, and write
    catalogue_training.json."""
    out: Path | None = None
    """With --items: directory of the report. Default: docs/reports, with --smoke
    build/smoke/reports."""
    cache: Path | None = None
    """With --items: scratch directory, left empty. Default: build/identifiers, with --smoke
    build/smoke/identifiers."""
    smoke: bool = False
    """With --items: run a miniature, for tests."""

    def execute(self) -> int:
        """Print the measurement."""
        from model.study import identifiers, throughput

        if self.items:
            identifiers.report(self)
        else:
            throughput.report(self)
        return 0


@dataclass(frozen=True)
class Scale:
    """Measure memory and speed of data preparation and training on synthetic logs of any size."""

    config: Path = Path("model/configs/ranklens.yaml")
    """Training configuration, YAML; model/network/config.py lists its fields."""
    out: Path | None = None
    """Directory of the report. Default: docs/reports, with --smoke build/smoke/reports."""
    cache: Path | None = None
    """Scratch directory, left empty. Default: build/scale, with --smoke build/smoke/scale."""
    rows: tuple[int, ...] = (1_000_000, 10_000_000)
    """Sizes of the logs in rows; each size is measured in turn."""
    test_lists: tuple[int, ...] = ()
    """Measure instead the evaluation of a bundle on so many test lists, for scale_evaluate.md."""
    join: tuple[int, ...] = ()
    """Measure instead the join of generated journals of so many decisions, for join.json."""
    shards: bool = False
    """Measure instead the preparation of raw logs of --rows rows in shards, for catalogue.md."""
    featurised: tuple[int, ...] = ()
    """With --shards: sizes of logs in rows that are featurised, too."""
    categories: int | None = None
    """Measure instead a history kernel over so many categories, from log to service, for
    catalogue.md."""
    engine: Literal["local", "ray", "both"] = "local"
    """With --shards: engine of `prepare` and `featurise`; both compares their data sets, in
    catalogue_engines.json."""
    workers: int | None = None
    """With --shards: their number of processes. Default: one for each processor."""
    page_only: bool = False
    """Write page and plots again from the JSON in --out, without training or measuring."""
    smoke: bool = False
    """Run a miniature, for tests."""

    def execute(self) -> int:
        """Write scale.md, scale_evaluate.md or catalogue.md with its JSON file."""
        from model.study import scale, scale_evaluate, scale_join, scale_kernel, scale_shards

        if self.categories is not None:
            scale_kernel.report(self)
        elif self.join:
            scale_join.report(self)
        elif self.shards:
            scale_shards.report(self)
        elif self.test_lists:
            scale_evaluate.report(self)
        else:
            scale.report(self)
        return 0


@dataclass(frozen=True)
class Worth:
    """Compare the worth that export prints with what a caller measures over HTTP; resumes.

    Generated logs are prepared, trained on, exported and served by the project's commands. With
    --url, nothing is trained: one running service is measured on the test lists of a log.
    """

    config: Path = Path("model/configs/worth.yaml")
    """Training configuration, YAML; model/network/config.py lists its fields."""
    out: Path | None = None
    """Directory of the report. Default: docs/reports, with --smoke build/smoke/reports."""
    cache: Path | None = None
    """Directory of finished cells. Default: build/worth, with --smoke build/smoke/worth."""
    cases: tuple[Literal["changing items", "fading items", "fading items, half-life"], ...] = ()
    """Cases to measure. Default: all."""
    seeds: int = 3
    """Number of seeds of each case."""
    url: str | None = None
    """Measure this running service, and print NDCG@10 and the number of lists as JSON."""
    log: Path | None = None
    """Raw log in Parquet whose lists are sent to --url. Default: the lists of --data."""
    data: Path | None = None
    """Data set that was prepared from the log; its test lists are measured. Features of candidate,
    user and context are always sent."""
    send: tuple[str, ...] = ()
    """Item features that are sent to --url with each candidate. Default: none."""
    liked_above: float | None = None
    """Label of the log above which a candidate is liked. Default: by the label of the schema."""
    page_only: bool = False
    """Write the page again from the JSON in --out, without training or measuring."""
    smoke: bool = False
    """Run a miniature, for tests."""

    def execute(self) -> int:
        """Write worth.md and worth.json. 1: a measured figure lies outside of its interval."""
        import json

        from model.study.caller import Log, measure
        from model.study.worth import report

        if self.url is None:
            return 0 if report(self) else 1
        if self.data is None:
            print("worth: --url needs --data", file=sys.stderr)
            return 2
        print(json.dumps(measure(Log(self.log, self.data, self.liked_above), self.url, self.send)))
        return 0


@dataclass(frozen=True)
class Recency:
    """Compare laws of statistics, or splits, on logs that change with time by NDCG@10; resumes."""

    out: Path = Path("docs/reports/recency.json")
    """Figures, JSON."""
    cache: Path = Path("build/recency")
    """Directory of logs and finished cells."""
    seeds: int = 3
    """Number of seeds of each generated log."""
    half_lives: tuple[str, ...] = ("1d", "3d", "30d")
    """Half-lives to measure beside statistics without one."""
    splits: tuple[str, ...] = ()
    """Splits to measure in place of laws of statistics: time, last-list, user."""
    events: Path | None = None
    """RankLens events, to measure RankLens with a list a minute."""
    ratings: Path | None = None
    """Ratings of films with times, tab-separated like ml-100k.inter, to measure lists cut from
    them."""

    def execute(self) -> int:
        """Print a line per log and law, and write the figures."""
        from model.study.recency import report

        report(self)
        return 0


@dataclass(frozen=True)
class Graded:
    """Compare the re-ranker with LambdaMART on a log of graded labels; resumes."""

    data: Path | None = None
    """Directory with rank.train, rank.test and their .query files, as in LightGBM's ranking
    example. Default: a generated log of the same shape."""
    draw: int = 0
    """Seed of the generated log."""
    config: Path = Path("model/configs/graded.yaml")
    """Training configuration, YAML; model/network/config.py lists its fields."""
    out: Path | None = None
    """Directory of the report. Default: docs/reports, with --smoke build/smoke/reports."""
    cache: Path | None = None
    """Directory of data set and finished cells. Default: build/graded, with --smoke
    build/smoke/graded."""
    seeds: int = 5
    """Number of seeds of every model."""
    page_only: bool = False
    """Write the page again from the JSON in --out, without training or measuring."""
    smoke: bool = False
    """Run a miniature, for tests."""

    def execute(self) -> int:
        """Write graded.md and graded.json."""
        from model.study.graded import report

        report(self)
        return 0


@dataclass(frozen=True)
class Diversity:
    """Compare the diversity of the decoding loop with methods after ranking; resumes."""

    data: Path = Path("build/ranklens/warm")
    """RankLens, as `python -m model prepare ranklens` writes it."""
    movielens: Path = Path("build/movielens")
    """MovieLens data set; skipped when the directory does not exist."""
    config: Path = Path("model/configs/served.yaml")
    """Training configuration, YAML; model/network/config.py lists its fields."""
    bundle: Path = Path("bundles/ranklens/1")
    """Bundle that is served to measure the advised weight over HTTP; skipped when the directory
    does not exist."""
    out: Path | None = None
    """Directory of the report. Default: docs/reports, with --smoke build/smoke/reports."""
    cache: Path | None = None
    """Directory of runs and finished cells. Default: build/diversity, with --smoke
    build/smoke/diversity."""
    seeds: int = 3
    """Number of seeds."""
    served_only: bool = False
    """Measure --bundle alone, by the advice of the JSON in --out, which keeps its other figures."""
    page_only: bool = False
    """Write page and plot again from the JSON in --out, without training or measuring."""
    smoke: bool = False
    """Run a miniature, for tests."""

    def execute(self) -> int:
        """Write diversity.md, diversity.json and the plot."""
        from model.study.diversity import report

        report(self)
        return 0
