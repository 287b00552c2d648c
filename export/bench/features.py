"""Time the featuriser over wide lists and over histories (`python -m export features`).

Run as a script, the module times the featuriser of the tree on PYTHONPATH and imports nothing else
of this project, so that it can time an older one too.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import Schema

ROOT = Path(__file__).parents[2]
HISTORY = 48  # entries of a history
SHORT, LONG = 50, 500  # candidates of lists of ids
CACHE_BYTES = 1 << 24
NOW = 1_700_000_000_000  # ms since 1970 UTC, of lists with stored items


@dataclass(frozen=True)
class FeaturesOptions:
    """Time the featuriser over wide lists and over lists of ids with a history (a minute)."""

    candidates: int = 200
    """Candidates of a wide list."""
    numbers: int = 300
    """Inline numbers per candidate of a wide list."""
    bundle: Path = Path("bundles/ranklens/1")
    """Bundle, relative to each checkout, whose featuriser is timed on lists of ids."""
    out: Path = Path("docs/reports/features.json")
    """File for the report."""
    turns: int = 5
    """Processes per tree; the report has the least of their medians."""
    seconds: float = 0.5
    """Time for each case in one process."""
    baseline: Path | None = None
    """Checkout of another commit, which is timed in turns with this one."""


def measure_features(options: FeaturesOptions) -> None:
    """Measure, write the report, and print it."""
    trees = {"this": ROOT} | ({"baseline": options.baseline} if options.baseline else {})
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(options.turns):
        for name, tree in trees.items():
            turns[name].append(time_tree(tree, options))
    report: dict[str, Any] = {
        "command": "python -m export features",
        "commit": commit_of(ROOT),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "candidates": options.candidates,
        "numbers": options.numbers,
        "history": HISTORY,
        "history_bytes": history_bytes(options.bundle),
    }
    if options.baseline:
        report["baseline_commit"] = commit_of(options.baseline)
    for name, results in turns.items():
        report[f"ms_{name}"] = {case: min(r[case] for r in results) for case in results[0]}
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def time_tree(tree: Path, options: FeaturesOptions) -> dict[str, float]:
    """Return the median CPU milliseconds of each case in a process over `tree`."""
    arguments = [options.candidates, options.numbers, options.bundle, options.seconds]
    run = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        cwd=tree,
        check=True,
        stdout=subprocess.PIPE,
    )
    milliseconds: dict[str, float] = json.loads(run.stdout)
    return milliseconds


def commit_of(tree: Path) -> str:
    """Return the abbreviated commit of a checkout, with -dirty where its files differ."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout[:-1]


def cases(candidates: int, numbers: int, bundle: Path) -> dict[str, Callable[[], Any]]:
    """Return the cases that the tree on PYTHONPATH supports."""
    draw = np.random.default_rng(0)
    values = draw.exponential(size=(candidates, numbers)).round(6)
    names = [f"number_{index}" for index in range(numbers)]
    # Numbers lie in memory in the order of the body, as a parser leaves them.
    rows = [dict(zip(names, row, strict=True)) for row in values.tolist()]
    records = json.loads(json.dumps(rows))
    columns = json.loads(json.dumps(dict(zip(names, values.T.tolist(), strict=True))))
    arrays = dict(zip(names, np.ascontiguousarray(values.T, np.float32), strict=True))
    ids = [str(index) for index in range(candidates)]
    plain = featuriser_of(names)
    lists = lists_of_ids(bundle) | {
        "records": (plain, CandidateList(ids=ids, features=records)),
        "records of logarithms": (
            featuriser_of(names, transform="log"),
            CandidateList(ids=ids, features=records),
        ),
    }
    if "columns" in {field.name for field in fields(CandidateList)}:
        packed = CandidateList(ids=ids, columns=arrays)
        lists |= {
            "columns": (plain, CandidateList(ids=ids, columns=columns)),
            "arrays": (plain, packed),
        }
    else:
        packed = CandidateList(ids=ids, features=records)
    lists["list-relative"] = (featuriser_of(names, relative=True), packed)
    runs: dict[str, Callable[[], Any]] = {
        name: partial(featurise, one, of) for name, (one, of) in lists.items()
    }
    broken = {name: column.copy() for name, column in arrays.items()}
    broken[names[-1]][-1] = np.nan
    last = {**records[-1], names[-1]: math.nan}
    refused = {"records": CandidateList(ids=ids, features=[*records[:-1], last])}
    if "columns" in lists:
        listed = {name: column.tolist() for name, column in broken.items()}
        refused["columns"] = CandidateList(ids=ids, columns=listed)
        refused["arrays"] = CandidateList(ids=ids, columns=broken)
    return runs | {f"{form}, refused": partial(refuse, plain, of) for form, of in refused.items()}


def refuse(featuriser: Featuriser, candidates: CandidateList) -> None:
    """Featurise a list whose last number breaks the schema. Raises AssertionError if it passes."""
    try:
        featuriser.transform(candidates)
    except ValueError:
        return
    raise AssertionError("the list must break the schema, but was accepted")


def load_served(bundle: Path) -> Featuriser:
    """Load the featuriser of a bundle."""
    if (bundle / "items.npz").exists():  # of contract 2
        return Featuriser.load(bundle)
    from service.engine.features.row_featuriser import RowFeaturiser  # older trees lack it

    return RowFeaturiser.load(bundle)


def featurise(featuriser: Featuriser, candidates: CandidateList) -> Any:
    """Return the arrays of a list that the service makes of it."""
    of_rows: Any = featuriser  # by its methods, because older trees lack the class
    if hasattr(of_rows, "rows"):
        return of_rows.rows(of_rows.encode(candidates), "generator")
    return featuriser.transform(candidates)


def lists_of_ids(bundle: Path) -> dict[str, tuple[Featuriser, CandidateList]]:
    """Return short and long lists of a bundle's items, without and with a history."""
    served, cached = load_served(bundle), load_served(bundle)
    caches = hasattr(cached, "cache_histories")
    if caches:
        cached.cache_histories(CACHE_BYTES, lambda hit: None)
    lists = {}
    for name, size in (("short", SHORT), ("long", LONG)):
        with_history = list_with_history(served, size)
        lists[f"{name} list of ids"] = served, CandidateList(ids=with_history.ids)
        lists[f"{name} list of ids with a history"] = served, with_history
        if caches:
            lists[f"{name} list of ids with a cached history"] = cached, with_history
    if "stored" in {field.name for field in fields(CandidateList)}:
        lists |= lists_of_stored_items(bundle)
    return lists


@dataclass
class BenchItem:
    """An item of a store in memory."""

    features: dict[str, Any]
    counters: dict[str, tuple[float, float, int]]
    updated_at: int = 0

    def packed_features(self) -> bytes:
        """Return the features as bytes."""
        return repr(self.features).encode()


def lists_of_stored_items(bundle: Path) -> dict[str, tuple[Featuriser, CandidateList]]:
    """Return short lists whose numbers of items come from a store or from the request."""
    from service.engine.features.stored_items import StoredItems  # older trees lack it

    served = load_counted(bundle)
    ids = list(served.items.ids)[:SHORT]
    features = served.schema.features
    values = {f.name: f.mean for f in features if f.of == "item" and f.kind == "number"}
    rate = next(feature.name for feature in features if feature.kind == "statistic")
    blobs = [item.encode() for item in ids]

    def stored(item: BenchItem) -> CandidateList:
        return CandidateList(ids=ids, stored=StoredItems(blobs, lambda blob: item, NOW))

    inline, moving = CandidateList(ids=ids, features=[values] * SHORT), load_counted(bundle)
    return {
        "short list of ids with inline numbers": (served, inline),
        "short list of ids with stored numbers": (served, stored(BenchItem(values, {}))),
        "short list of ids with stored numbers and counters": (
            moving,
            stored(BenchItem(values, {rate: (40.0, 8.0, NOW)})),
        ),
    }


def load_counted(bundle: Path) -> Featuriser:
    """Load the featuriser of a bundle with counts behind its statistics, ready for stored items."""
    from service.engine.features.snapshot import Snapshot, StatisticCounts

    items = len(load_served(bundle).items.ids)
    counts = StatisticCounts(np.full(items, 40.0), np.full(items, 8.0), 4e4, 8e3, 3_600_000, NOW)
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(bundle, directory, dirs_exist_ok=True)
        counted = load_served(Path(directory))
        names = [feature.name for feature in counted.schema.features if feature.kind == "statistic"]
        Snapshot(NOW, dict.fromkeys(names, counts)).save(Path(directory))
        counted.prepare_stored_rows()
    return counted


def list_with_history(featuriser: Featuriser, size: int) -> CandidateList:
    """Return the first items as candidates, for a user who answered the last ones."""
    items = list(featuriser.items.ids)
    past = [(item, float(index % 3 == 0)) for index, item in enumerate(items[-HISTORY:])]
    return CandidateList(ids=items[:size], history=past)


def history_bytes(bundle: Path) -> int:
    """Return the bytes that one history takes in the cache."""
    featuriser = load_served(bundle)
    featuriser.cache_histories(CACHE_BYTES, lambda hit: None)
    featuriser.transform(list_with_history(featuriser, SHORT))
    assert featuriser.history_cache is not None
    return featuriser.history_cache.nbytes


def featuriser_of(names: Sequence[str], **fields_of_each: Any) -> Featuriser:
    """Return a featuriser of inline numbers, without items."""
    number = {"of": "candidate", "kind": "number", "mean": 0.5, "std": 0.3, **fields_of_each}
    schema = Schema.from_dict(
        {"name": "wide", "features": [{"name": name, **number} for name in names]}
    )
    empty = ItemTable((), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64), {})
    return Featuriser(schema, empty)


def median_milliseconds(run: Callable[[], Any], seconds: float) -> float:
    """Repeat a run for about `seconds`, at least five times, and return its median CPU time."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        began = time.thread_time()
        run()
        times.append(time.thread_time() - began)
    return round(1e3 * float(np.median(times)), 3)


def main(arguments: Sequence[str]) -> None:
    """Print the median CPU milliseconds of each case as JSON."""
    candidates, numbers, bundle, seconds = arguments
    # Freed at once: the allocator of a process that has read its models keeps memory, where that of
    # a fresh one returns it to the system after each long list.
    np.ones(1 << 23)
    every = cases(int(candidates), int(numbers), Path(bundle))
    print(json.dumps({n: median_milliseconds(run, float(seconds)) for n, run in every.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
