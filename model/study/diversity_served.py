"""Measure the advised diversity as a caller gets it: a bundle, served and asked over HTTP."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from model.data.dataset import Dataset, Impression
from model.data.intervals import rounded
from model.learning.callers import is_rankable, shuffled
from model.learning.evaluate import LISTS_AT_ONCE, http_ranker
from model.study.diversity_cells import LOOP
from model.study.diversity_metrics import METRICS, POSITIONS, Meter, candidate_values
from model.study.grid import load, save
from model.study.worth import serving

Array = np.ndarray[Any, Any]
DIGITS = 4
PLAIN = "without diversity"
WEIGHTS = tuple(weight for weight in LOOP.weights if weight)  # of the front
# Under load the service would reason less, and slates would depend on the machine.
REPRODUCIBLE = {"RERANK_ADAPTIVE_BUDGET": "false", "RERANK_TIMEOUT_MS": "30000"}


def measure_served(
    bundle: Path, data: Path, advice: Mapping[str, Any], cache: Path, limit: int | None = None
) -> dict[str, Any]:
    """Return METRICS of a served bundle on test lists, as requested in several ways.

    The caller sends ids and history in shuffled lists. Slates are cached by the bundle's digest.

    Args:
        data: data set that the bundle was trained on.
        advice: summary with dataset ("NAME, ATTRIBUTE"), weight, law and decay.
        limit: number of lists to rank; by default all that are rankable.
    """
    dataset = Dataset(data)
    attribute = advice["dataset"].rpartition(", ")[2]
    term = {"by": attribute, **{name: advice[name] for name in ("weight", "decay", "law")}}
    requests: dict[str, dict[str, Any]] = {
        PLAIN: {},
        "as advised": {"diversity": term},
        "with the defaults of the service": {"diversity": {"by": attribute}},
    }
    front = {f"weight {weight}": {"diversity": term | {"weight": weight}} for weight in WEIGHTS}
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()[:16]
    lists = dataset.lists(["test"]).rankable()
    lists = lists.take(np.arange(len(lists))[:limit])
    meter = Meter(lists, candidate_values(dataset, lists, "test", attribute))
    measured = {}
    with contextlib.ExitStack() as stack:
        url = ""
        for name, fields in (requests | front).items():
            settings = fields.get("diversity", {}).items()
            text = ", ".join(f"{field} {value}" for field, value in settings)
            path = cache / f"served {digest} {text}.npz"
            if not path.exists():
                log = cache / "service.log"
                url = url or stack.enter_context(serving(bundle, log, REPRODUCIBLE)).url
                save(path, {"slate": served_slates(dataset, url, fields, limit)})
            measured[name] = meter.measure(load(path)["slate"])
    complete = np.all([~np.isnan(metrics).any(axis=0) for metrics in measured.values()], axis=0)
    kept = {name: metrics[:, complete] for name, metrics in measured.items()}
    return {
        "bundle": f"{bundle.parent.name}/{bundle.name}",
        "diversity": term,
        "lists": int(complete.sum()),
        "requests": {name: by_metric(kept[name]) for name in requests},
        "changes": {
            name: by_metric(kept[name] - kept[PLAIN]) for name in requests if name != PLAIN
        },
        "front": [
            {"weight": weight, **by_metric(kept[name])}
            for weight, name in zip((0.0, *WEIGHTS), (PLAIN, *front), strict=True)
        ],
    }


def by_metric(values: Array) -> dict[str, list[float | None]]:
    """Return mean and interval of each of METRICS, [M, R]."""
    return {name: rounded(values[index], DIGITS) for index, name in enumerate(METRICS)}


def served_slates(
    dataset: Dataset, url: str, fields: Mapping[str, Any], limit: int | None = None
) -> Array:
    """Return the slates of the rankable test lists, int64 [R, POSITIONS], in their logged order.

    Args:
        fields: fields to add to every request.
        limit: number of lists to rank; by default all.
    """
    scale = dataset.featuriser.schema.label
    rank = http_ranker(url, fields=fields)
    logged = (i for i in dataset.impressions(["test"]) if is_rankable(i, scale))
    rows: list[Array] = []
    for block in _blocks(islice(logged, limit)):
        sent = [shuffled(impression) for impression in block]
        for impression, request, (slate, _steps) in zip(block, sent, rank(sent), strict=True):
            rows.append(_in_logged_order(impression, request, slate))
    return np.stack(rows)


def _blocks(lists: Iterator[Impression]) -> Iterator[list[Impression]]:
    while block := list(islice(lists, LISTS_AT_ONCE)):
        yield block


def _in_logged_order(logged: Impression, sent: Impression, slate: Sequence[int]) -> Array:
    """Return the places of the slate's items in the logged list, int64 [POSITIONS]."""
    place = {item: index for index, item in enumerate(logged.request.ids)}
    row = np.full(POSITIONS, -1, np.int64)
    head = slate[:POSITIONS]
    row[: len(head)] = [place[sent.request.ids[index]] for index in head]
    return row
