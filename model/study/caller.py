"""Measure NDCG@10 over HTTP as a caller would, from the rows of a raw log.

This is a check of `evaluate`, so it shares nothing with it: the module imports nothing of the
project, makes its own requests, histories and shuffles, and computes NDCG by its definition.
"""

from __future__ import annotations

import json
import math
import random
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import yaml

HISTORY = 128  # answers of a user that a caller remembers
LISTS_PER_CALL = 16
LABEL_DIGITS = 5  # of labels of a data set, which are float32
IDS = ("request_id", "item_id", "user_id")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Log:
    """Logged lists, and the part of them that is measured.

    path        raw log in Parquet: request_id, item_id, label, perhaps user_id, timestamp and item
                features; None reads the lists from the data set, whatever file they came from
    data        data set that was prepared from it: says which requests are test, and holds the
                schema, the features of candidate, user and context, and statistics
    label       label above which a candidate is liked; None for the rule of the schema
    """

    path: Path | None
    data: Path
    label: float | None = None

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The schema of the data set, as its file has it."""
        schema: dict[str, Any] = yaml.safe_load((self.data / "schema.yaml").read_text("utf-8"))
        return schema

    def features(self, owner: str) -> list[str]:
        """Return the features of an owner, by the schema."""
        return [f["name"] for f in self.schema["features"] if f["of"] == owner]

    @cached_property
    def range(self) -> tuple[float, float]:
        """Smallest and largest label of the log."""
        low, high = (self.schema.get("label") or {}).get("range", (0, 1))
        return float(low), float(high)

    @property
    def rule(self) -> str:
        """The rule by which a label is liked, as text."""
        positive = (self.schema.get("label") or {}).get("positive")
        if self.label is None and positive is not None:
            return f"label >= {positive:g}"
        return f"label > {sum(self.range) / 2 if self.label is None else self.label:g}"

    def is_liked(self, label: float) -> bool:
        """Return whether a label of the log is a like."""
        _, comparison, bound = self.rule.split()
        return label >= float(bound) if comparison == ">=" else label > float(bound)

    @property
    def is_graded(self) -> bool:
        """True if the schema declares a gain of more than two values."""
        return (self.schema.get("label") or {}).get("gain") in ("linear", "exponential")

    def gain(self, label: float) -> float:
        """Return the gain of a label of the log, 0..1; of ungraded labels 1 for a like."""
        if not self.is_graded:
            return float(self.is_liked(label))
        low, high = self.range
        if self.schema["label"]["gain"] == "linear":
            return (label - low) / (high - low)
        return float((2.0 ** (label - low) - 1.0) / (2.0 ** (high - low) - 1.0))

    def histories(self, requests: Collection[str]) -> dict[str, list[tuple[str, float]]] | None:
        """Return the stored answers before each request; None for a data set that stores none.

        A request without entries has no history then.
        """
        path = self.data / "histories.parquet"
        if not path.exists():
            return None
        rows = pl.scan_parquet(path).filter(pl.col("request_id").is_in(list(requests))).collect()
        stored: dict[str, list[tuple[str, float]]] = {}
        for request, item, label in rows.select("request_id", "item_id", "label").iter_rows():
            stored.setdefault(request, []).append((item, label))
        return stored

    def lists(self, features: Sequence[str]) -> Iterator[tuple[list[Row], list[tuple[str, float]]]]:
        """Yield the rows of each test list, and what its user answered before, oldest first.

        An answer is the label, scaled to 0..1 by the range of the schema. A data set that stores
        histories has them from there, as `train` and `evaluate` do.

        Args:
            features: item features that the rows must have.
        """
        shards = sorted((self.data / "impressions").glob("*.parquet"))
        prepared = pl.read_parquet(shards or [self.data / "impressions.parquet"])
        prepared = _with_text_ids(prepared, self.data)
        low, high = self.range
        if self.path is None:
            label = pl.col("label").cast(pl.Float64) * (high - low) + low
            rows = prepared.with_columns(label=label.round(LABEL_DIGITS))
        else:
            rows = self._read_log(self.path, prepared, features)
        tests = set(prepared.filter(split="test")["request_id"])
        stored = self.histories(tests)
        if "user_id" not in rows.columns:
            rows = rows.with_columns(user_id=pl.lit(None, pl.String))
        # A list without a user is of a user of its own; its id in a data set begins with a blank.
        named = pl.when(~pl.col("user_id").str.starts_with(" ")).then("user_id")
        rows = rows.with_columns(user_id=named)
        rows = rows.with_columns(__user=pl.coalesce("user_id", "request_id"))
        for _, visits in rows.group_by("user_id", "__user", maintain_order=True):
            answers: list[tuple[int, str, float]] = []
            lists: list[list[Row]] = [
                list(listed.iter_rows(named=True))
                for listed in visits.partition_by("request_id", maintain_order=True)
            ]
            for listed in sorted(lists, key=_time):
                time = _time(listed)
                if (request := listed[0]["request_id"]) in tests:
                    before = [(item, label) for at, item, label in answers if at < time]
                    if stored is not None:
                        before = stored.get(request, [])
                    yield listed, before[-HISTORY:]
                scaled = [(row["item_id"], (row["label"] - low) / (high - low)) for row in listed]
                answers += [(time, item, label) for item, label in scaled]

    def _read_log(
        self, path: Path, prepared: pl.DataFrame, features: Sequence[str]
    ) -> pl.DataFrame:
        """Read the raw log, with features of the data set.

        Raises ValueError for a file that is no Parquet.
        """
        if path.suffix not in (".parquet", ".pq"):
            raise ValueError(
                f"{path}: must be Parquet; leave --log out, and the lists are read from --data"
            )
        rows = _with_text_ids(pl.read_parquet(path), path)
        if "timestamp" not in rows.columns:
            rows = rows.with_columns(timestamp=pl.int_range(pl.len()))
        names = [*self.features("candidate"), *self.features("context")]
        names += [name for name in features if name not in rows.columns]
        names = [name for name in dict.fromkeys(names) if name in prepared.columns]
        rows = rows.drop(names, strict=False)
        keys = ["request_id", "item_id"]
        return rows.join(prepared.select(*keys, *names), on=keys, how="left")

    @cached_property
    def users(self) -> dict[str, Row]:
        """Features of each user that are not null, in the data set."""
        names = [name for name in self.features("user") if name != "user_id"]
        table = pl.read_parquet(self.data / "users.parquet")
        rows = table.select("user_id", *(name for name in names if name in table.columns))
        return {row.pop("user_id"): _present(row) for row in rows.iter_rows(named=True)}


def _with_text_ids(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return the rows with ids as text. Raises ValueError for an id that is no whole number."""
    for name in IDS:
        if name not in rows.columns:
            continue
        value = pl.col(name)
        if rows.schema[name].is_float():
            value = value.fill_nan(None)
            if rows.filter(value != value.round()).height:
                raise ValueError(f"{path}, column {name}: must be text or whole numbers")
            value = value.cast(pl.Int64)
        text = value.cast(pl.String)
        if rows.schema[name] == pl.String and path.suffix:  # a raw log
            text = text.str.strip_chars().replace("", None)
        rows = rows.with_columns(text.alias(name))
    return rows


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not null."""
    return {name: value for name, value in row.items() if value is not None}


def _time(rows: Sequence[Row]) -> int:
    return min(row["timestamp"] for row in rows)


def measure(log: Log, url: str, features: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """Return NDCG@10 over the test lists whose gains differ; the binary one needs a like.

    Sent are user, history, and the features of candidate, user and context that the data set has.
    With a graded gain, graded NDCG@10 and the number of its lists come too.

    Args:
        url: base URL of a running service.
        features: item features to send with each candidate; without them the item table counts.
        seed: seed of the order in which candidates are sent.

    Raises OSError if the service refuses or degrades a request, ValueError for a log that cannot
    be read.
    """
    draw = random.Random(seed)
    values: list[float] = []
    graded: list[float] = []
    bodies: list[dict[str, Any]] = []
    listed_labels: list[list[float]] = []

    def send() -> None:
        for slate, labels in zip(_rerank(url, bodies), listed_labels, strict=True):
            liked = [float(log.is_liked(label)) for label in labels]
            if any(liked):
                values.append(_ndcg(slate, liked))
            graded.append(_ndcg(slate, [log.gain(label) for label in labels]))
        bodies.clear()
        listed_labels.clear()

    for rows, history in log.lists(features):
        listed = draw.sample(rows, len(rows))
        labels = [row["label"] for row in listed]
        if len({log.gain(label) for label in labels}) > 1:
            bodies.append(_body(log, listed, history, features))
            listed_labels.append(labels)
        if len(bodies) == LISTS_PER_CALL:
            send()
    if bodies:
        send()
    if not graded:
        both = "two different gains" if log.is_graded else f"a label that is {log.rule} and others"
        raise ValueError(f"{log.data}: no test list has {both}")
    of_grades = {"graded ndcg@10": math.fsum(graded) / len(graded), "graded lists": len(graded)}
    return {
        "ndcg@10": math.fsum(values) / len(values) if values else None,
        "lists": len(values),
        **(of_grades if log.is_graded else {}),
        "liked": log.rule,
        "item features sent": list(features),
    }


def _body(
    log: Log, rows: Sequence[Row], history: Sequence[tuple[str, float]], features: Sequence[str]
) -> dict[str, Any]:
    """Return the request for one list."""
    names = [name for name in log.features("candidate") if name in rows[0]]
    candidates = []
    for row in rows:
        candidate: dict[str, Any] = {"id": row["item_id"]}
        values = _present({name: row[name] for name in (*names, *features)})
        if "score" in names and "score" in values:  # a field of its own
            candidate["score"] = values.pop("score")
        if values:
            candidate["features"] = values
        candidates.append(candidate)
    user_id = rows[0]["user_id"]
    user: dict[str, Any] = {"history": [{"id": item, "label": label} for item, label in history]}
    if user_id is not None:
        user |= {"id": user_id, "features": log.users.get(user_id, {})}
    context = _present({n: rows[0][n] for n in log.features("context") if n in rows[0]})
    return {"user": user, "context": context, "candidates": candidates, "timeout_ms": 30_000}


def _rerank(url: str, bodies: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
    """Yield the slate of each request as places in its list of candidates.

    Raises OSError if the service did not answer with the model's slate.
    """
    content = json.dumps({"requests": bodies}).encode()
    call = urllib.request.Request(f"{url}/rerank/batch", content, method="POST")
    try:
        with urllib.request.urlopen(call, timeout=60) as response:
            answers = json.load(response)["responses"]
    except urllib.error.HTTPError as error:
        with error:
            raise OSError(f"{url}: {error}: {_detail(error)}") from None
    for body, answer in zip(bodies, answers, strict=True):
        if answer["degraded"]:
            raise OSError(f"{url}: degraded ({answer['degraded']['reason']}); the machine is busy")
        places = {candidate["id"]: place for place, candidate in enumerate(body["candidates"])}
        yield [places[entry["id"]] for entry in answer["slate"]]


def _detail(error: urllib.error.HTTPError) -> str:
    """Return the detail of a problem, or the first characters of another body."""
    body = error.read().decode("utf-8", "replace")
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200]


def _ndcg(slate: Sequence[int], gains: Sequence[float]) -> float:
    """Return NDCG@10 of a slate, places from best to worst, in a list with these gains."""
    discounts = [1.0 / math.log2(place + 2) for place in range(10)]
    gained = sum(d * gains[place] for d, place in zip(discounts, slate, strict=False))
    ideal = sum(d * gain for d, gain in zip(discounts, sorted(gains, reverse=True), strict=False))
    return gained / ideal
