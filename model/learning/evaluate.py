"""Rank held-out lists with a bundle, and measure the slates, for each kind of caller."""

from __future__ import annotations

import dataclasses
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model.data.dataset import Dataset, Impression
from model.data.errors import DataError
from model.data.freshness import stale_shares
from model.data.intervals import excludes_zero
from model.data.metrics import selecting_metric, slate_metrics
from model.learning.callers import carries, is_rankable, sent_values, shuffled, without
from model.learning.tally import Tally
from service.engine.session import Session

Array = np.ndarray[Any, Any]
# A ranker returns, per list, the chosen candidate indices and the number of reasoning steps.
Ranker = Callable[[Sequence[Impression]], list[tuple[list[int], int]]]

NO_ITEM_FEATURES = "no item features"  # name of the caller that leaves them to the item table
BASELINES = ("shown order", "item like rate", "first stage")
LISTS_AT_ONCE = 32
LISTS_PER_FEATURE = 1_000  # lists that are ranked once more for each stale feature
STALE_FEATURES = 10  # features that are measured alone, those that differ in most rows
STALE = 0.01  # share of rows above which a feature that differs from the table is measured


def session_ranker(session: Session) -> Ranker:
    """Rank in this process, with the service's featuriser and session."""

    def rank(impressions: Sequence[Impression]) -> list[tuple[list[int], int]]:
        slates = session.run([session.row(i.request) for i in impressions])
        return [(slate.indices.tolist(), int(slate.steps.sum())) for slate in slates]

    return rank


def http_ranker(url: str, attempts: int = 5, fields: Mapping[str, Any] | None = None) -> Ranker:
    """Rank through a running service; a call with a degraded response is repeated.

    `fields` are added to the body of every request.

    The model did not produce a degraded response: the machine stalled longer than the server's
    deadline. Raises OSError when the service does not respond, refuses, or degrades every attempt.
    """

    def rank(impressions: Sequence[Impression]) -> list[tuple[list[int], int]]:
        bodies = [
            i.request.to_json() | {"timeout_ms": 30_000, **(fields or {})} for i in impressions
        ]
        request = urllib.request.Request(
            f"{url}/rerank/batch", json.dumps({"requests": bodies}).encode(), method="POST"
        )
        for _ in range(attempts):
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    responses = json.load(response)["responses"]
            except urllib.error.HTTPError as error:
                with error:
                    problem = error.read().decode("utf-8", "replace")
                raise OSError(f"{url}: {error}: {problem[:500]}") from None
            degraded = {r["degraded"]["reason"] for r in responses if r["degraded"]}
            if not degraded:
                break
        else:
            reasons = ", ".join(sorted(degraded))
            raise OSError(
                f"{url}: degraded ({reasons}) {attempts} times; evaluate on an idle machine"
            )
        return [
            (
                [entry["initial_position"] for entry in response["slate"]],
                response["reasoning"]["steps_used"],
            )
            for response in responses
        ]

    return rank


def evaluate(
    session: Session, data: Path, split: str = "test", rank: Ranker | None = None
) -> dict[str, Any]:
    """Return metrics of a bundle on one split of a data set, as `[mean, low, high]` over lists.

    The lists are shuffled, and ranked by `rank`, by default the session. They are read one block
    after the other, and only figures per list are kept. `ndcg@10 gain over` holds paired
    differences from the shown order, from sorting by the item like rate, and from the first stage.
    Intervals are 95 % intervals over lists, null for too few lists (model.data.intervals).

    These figures are those of a caller that sends no item features (`caller`), so that the item
    table counts; `sent` names all that it sends. With a graded gain, `lists` counts the lists of
    the binary metrics and `graded lists` those of the graded ones. Where the log has item features
    of the time of a held-out list, `fresh` holds the figures of a caller that sends them too. If
    both differ by more than noise, `keep_fresh` lists the features that differ from the item table,
    with the share of rows in which they do and the gain if this feature alone is sent.

    Raises DataError for a split without a list that has a positive and a negative.
    """
    dataset = Dataset(data)
    # A train row carries statistics of the other folds; the table counts its own labels.
    names = [] if split == "train" else dataset.fresh_features([split])
    meter = Meter(session, rank or session_ranker(session))
    bare, fresh = Tally(), Tally()
    item_features = [f.name for f in session.featuriser.schema.features if f.of == "item"]
    with_item_features, sent = False, dict[str, None]()
    lists = _rankable(meter, dataset, split, fresh=bool(names))
    while block := list(islice(lists, LISTS_AT_ONCE)):
        requests = [without(i, names) for i in block]
        for request in requests:
            sent |= sent_values(request)
        figures = meter.measure(requests)
        bare.add(figures)
        with_item_features |= any(carries(i, item_features) for i in requests)
        if names:
            changed = [k for k, i in enumerate(block) if carries(i, names)]
            fresh.add(_replace(figures, changed, meter.measure([block[k] for k in changed])))
    if not len(bare):
        rule = f"must have at least one {split} list with {meter.scale.order}"
        raise DataError(data, rule, value=0)
    result: dict[str, Any] = {
        "data": f"{data.parent.name}/{data.name}",
        "split": split,
        "lists": bare.count("ndcg@10"),
        **({"graded lists": bare.count(meter.headline)} if meter.scale.is_graded else {}),
        **meter.summary(bare),
        "caller": "with item features" if with_item_features else NO_ITEM_FEATURES,
        "sent": ["ids", *sent],
    }
    if names:
        result["fresh"] = {"features": names, **meter.summary(fresh, bare)}
        if excludes_zero(fresh.gain(meter.headline, bare[meter.headline])):
            result["keep_fresh"] = measure_stale_features(
                meter, dataset, split, names, bare[meter.headline]
            )
    return result


class Meter:
    """Ranks lists and measures the slates of a bundle, and the baselines on the same requests."""

    def __init__(self, session: Session, rank: Ranker) -> None:
        self.featuriser, self.rank = session.featuriser, rank
        self.length = session.manifest.slate_length
        schema = session.featuriser.schema
        self.scale = schema.label
        statistics = [f.name for f in schema.features if f.kind == "statistic"]
        rate = schema.history.rate or next(iter(statistics), None)
        self._rate_column = None if rate is None else self.featuriser.column(rate)
        self._is_scored = any(f.name == "score" and f.of == "candidate" for f in schema.features)
        self._metrics: list[str] = []

    def measure(self, logged: Sequence[Impression]) -> dict[str, Array]:
        """Return metrics, reasoning steps, and metrics of the baselines, each [B]."""
        if not logged:
            return {}
        impressions = [shuffled(i) for i in logged]
        ranked = self.rank(impressions)
        labels = [i.labels for i in impressions]
        metrics = slate_metrics(*padded([slate for slate, _ in ranked], labels), self.scale)
        self._metrics = list(metrics)
        figures = dict(metrics)
        figures["reasoning_steps"] = np.array([steps for _, steps in ranked])
        baselines = {"shown order": (logged, [np.arange(len(i.labels)) for i in logged])}
        if self._rate_column is not None:
            baselines["item like rate"] = impressions, [self._by_rate(i) for i in impressions]
        if self._is_scored:
            baselines["first stage"] = impressions, [_by_score(i) for i in impressions]
        for name, (lists, orders) in baselines.items():
            slates = [order[: self.length].tolist() for order in orders]
            of_baseline = slate_metrics(*padded(slates, [i.labels for i in lists]), self.scale)
            figures |= {_of(name, metric): of_baseline[metric] for metric in self._compared}
        return figures

    @property
    def headline(self) -> str:
        """Metric by which callers are compared: NDCG@10, graded with a graded gain."""
        return selecting_metric(self.scale)

    def summary(self, tally: Tally, bare: Tally | None = None) -> dict[str, Any]:
        """Return the mean of each metric, and its paired gain over each baseline.

        Args:
            bare: figures of requests without item features, as a further baseline.
        """
        result: dict[str, Any] = {
            name: tally.mean(name) for name in (*self._metrics, "reasoning_steps")
        }
        for metric in self._compared:
            bases = [name for name in BASELINES if _of(name, metric) in tally.names]
            result[f"{metric} gain over"] = {
                name: tally.gain(metric, tally[_of(name, metric)]) for name in bases
            }
            if bare is not None:
                result[f"{metric} gain over"][NO_ITEM_FEATURES] = tally.gain(metric, bare[metric])
        return result

    @property
    def _compared(self) -> list[str]:
        """Metrics that are compared with those of the baselines."""
        return [name for name in self._metrics if name.endswith("ndcg@10")]

    def _by_rate(self, impression: Impression) -> Array:
        """Return the order by item like rate, as this request has it.

        The history is left out: it costs most of the time and does not change the rate.
        """
        request = dataclasses.replace(impression.request, history=(), history_rates=())
        numbers = self.featuriser.transform(request)[0]
        return np.argsort(-numbers[:, self._rate_column], kind="stable")


def _of(baseline: str, metric: str) -> str:
    return f"{metric} of {baseline}"


def _by_score(impression: Impression) -> Array:
    """Return the order by first-stage score; candidates without a score come last."""
    scores = [-np.inf if score is None else score for score in impression.request.scores]
    return np.argsort(-np.array(scores), kind="stable")


def _replace(
    figures: dict[str, Array], rows: Sequence[int], values: dict[str, Array]
) -> dict[str, Array]:
    """Return the figures [B] with these values [len(rows)] at `rows`."""
    replaced = {name: np.array(column, np.float64) for name, column in figures.items()}
    for name, column in values.items():
        replaced[name][rows] = column
    return replaced


def _rankable(meter: Meter, dataset: Dataset, split: str, fresh: bool) -> Iterator[Impression]:
    """Yield the lists of a split that have a better and a worse order."""
    lists = dataset.impressions([split], fresh)
    for impression in tqdm(lists, f"evaluate {split}", disable=None, leave=False):
        if is_rankable(impression, meter.scale):
            yield impression


def measure_stale_features(
    meter: Meter, dataset: Dataset, split: str, names: Sequence[str], bare: Array
) -> list[dict[str, Any]]:
    """Return the features whose values of the time differ from the table, largest gain first.

    Each entry has the feature, the share of rows in which it differs (above STALE), and the paired
    gain in the headline metric if a caller sends this feature alone, over a sample of lists.

    Args:
        bare: the headline metric [R] of requests without item features, in the order of the lists.
    """
    shares = stale_shares(dataset, [split], names)
    stale = sorted((n for n in names if shares[n] > STALE), key=lambda n: -shares[n])
    stale = stale[:STALE_FEATURES]
    size = min(LISTS_PER_FEATURE, len(bare))
    sample = set(np.random.default_rng(0).choice(len(bare), size, replace=False).tolist())
    lists = enumerate(_rankable(meter, dataset, split, fresh=True))
    chosen = (entry for entry in lists if entry[0] in sample)
    gains = Tally()
    while block := list(islice(chosen, LISTS_AT_ONCE)):
        base = bare[[number for number, _ in block]]
        for name in stale:
            others = [other for other in names if other != name]
            changed = [k for k, (_, i) in enumerate(block) if carries(i, [name])]
            gain = np.zeros(len(block))
            if changed:
                figures = meter.measure([without(block[k][1], others) for k in changed])
                gain[changed] = figures[meter.headline] - base[changed]
            gains.add({name: gain})
    entries: list[dict[str, Any]] = [
        {"feature": name, "rows": round(shares[name], 4), "lists": size,
         f"{meter.headline} gain": gains.mean(name)}
        for name in stale
    ]  # fmt: skip
    return sorted(entries, key=lambda entry: -(entry[f"{meter.headline} gain"][0] or 0.0))


def padded(
    slates: Sequence[Sequence[int]], labels: Sequence[Sequence[float]]
) -> tuple[Array, Array]:
    """Pad ragged slates and labels to int64 [R, K] (-1 = empty) and float32 [R, N]."""
    slate = np.full((len(slates), max(map(len, slates))), -1, np.int64)
    label = np.zeros((len(labels), max(map(len, labels))), np.float32)
    for index, (chosen, values) in enumerate(zip(slates, labels, strict=True)):
        slate[index, : len(chosen)] = chosen
        label[index, : len(values)] = values
    return slate, label
