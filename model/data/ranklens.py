"""Read RankLens events: lists of movies with likes, and metadata of the movies."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from model.data.errors import DataError
from model.data.source import LOG_COLUMNS, Source
from model.data.statistics import token_vectors
from model.data.tables import DTYPES
from service.engine.features.schema import Schema
from service.engine.features.schema_rules import is_finite

# Rule -> (fields of a movie that must keep it unless they are absent, function that checks it).
FIELDS: dict[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    "must be a finite number": (
        ("popularity", "vote_avg", "vote_cnt", "runtime", "budget"),
        is_finite,
    ),
    "must be seconds since 1970, fewer than 6e10": (
        ("release_date",),
        lambda value: is_finite(value) and abs(value) < 6e10,
    ),
    "must be a text": (
        ("title", "description", "director", "writer"),
        lambda value: isinstance(value, str),
    ),
    "must be a list of texts": (
        ("genres", "tags", "actors"),
        lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
    ),
}


@dataclass
class _Events:
    """The lists, movies and clicks of the lines read so far."""

    lists: dict[str, tuple[str, int, list[str]]] = field(default_factory=dict)
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    clicks: list[tuple[int, str, str]] = field(default_factory=list)  # row, list, item


def read_ranklens(path: Path, schema: Schema, permute_labels: int | None = None) -> Source:
    """Read `events.jsonl.gz`; `permute_labels` seeds a permutation of the labels in each list.

    Raises DataError for a file that is not gzipped JSON lines, or for an event that contradicts
    another one.
    """
    events = _Events()
    row = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row, line in enumerate(tqdm(file, "events", unit="", disable=None), 1):
                _read_event(path, row, line, events)
    except FileNotFoundError:
        raise DataError(path, "no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read after row {row} ({error})") from None
    if not events.lists:
        raise DataError(path, "has no ranking events")
    if not events.clicks:
        raise DataError(path, "has no interaction events")
    for row, name, item in events.clicks:
        if name not in events.lists:
            raise DataError(
                path, "must be the id of a list in the file", row=row, column="ranking", value=name
            )
        if item not in events.lists[name][2]:
            rule = f"must be a candidate of list {name}"
            raise DataError(path, rule, row=row, column="item", value=item)
    return _build_source(events, schema, permute_labels)


def _read_event(path: Path, row: int, line: str, events: _Events) -> None:
    """Check the event on one line and add it to `events`."""

    def broken(rule: str, column: str, value: object) -> DataError:
        return DataError(path, rule, row=row, column=column, value=value)

    try:
        event = json.loads(line)
        kind = event["event"]
        if kind == "item":
            fields = {entry["name"]: entry["value"] for entry in event["fields"]}
            for rule, (names, is_valid) in FIELDS.items():
                for name in names:
                    if fields.get(name) is not None and not is_valid(fields[name]):
                        raise broken(rule, name, fields[name])
            events.metadata[str(event["item"])] = _movie_features(fields)
        elif kind == "ranking":
            name, candidates = str(event["id"]), [str(entry["id"]) for entry in event["items"]]
            time = str(event["timestamp"])
            if name in events.lists:
                raise broken("must differ from the id of every earlier list", "id", name)
            if not candidates or len(set(candidates)) < len(candidates):
                raise broken("must hold at least one candidate, each once", "items", candidates)
            if not time.isdecimal():
                raise broken("must be whole milliseconds", "timestamp", time)
            events.lists[name] = (str(event["user"]), int(time), candidates)
        elif kind == "interaction":
            events.clicks.append((row, str(event["ranking"]), str(event["item"])))
        else:
            raise broken("must be item, ranking or interaction", "event", kind)
    except json.JSONDecodeError:
        raise DataError(path, "must be JSON", row=row, value=line) from None
    except KeyError as error:
        raise DataError(path, "is missing", row=row, column=error.args[0]) from None
    except (TypeError, AttributeError) as error:
        raise DataError(path, f"is not an event ({error})", row=row, value=line) from None


def _build_source(events: _Events, schema: Schema, permute_labels: int | None) -> Source:
    """Convert events to tables: lists in order of time, movies with the features of the schema."""
    lists, metadata = events.lists, events.metadata
    likes = {(name, item) for _, name, item in events.clicks}
    random = np.random.default_rng(permute_labels)
    request_ids = sorted(lists, key=lambda name: lists[name][1])  # stable, so ties keep file order
    columns: dict[str, list[Any]] = {name: [] for name in LOG_COLUMNS}
    for name in request_ids:
        user, _, candidates = lists[name]
        labels = np.array([(name, item) in likes for item in candidates], np.float32)
        columns["request_id"] += [name] * len(candidates)
        columns["user_id"] += [user] * len(candidates)
        columns["item_id"] += candidates
        columns["position"] += range(len(candidates))
        columns["label"] += (
            labels if permute_labels is None else random.permutation(labels)
        ).tolist()
    rows = pl.DataFrame(columns, schema_overrides={"position": pl.Int32, "label": pl.Float32})
    requests = pl.DataFrame(
        {
            "request_id": request_ids,
            "user_id": [lists[name][0] for name in request_ids],
            "timestamp": [lists[name][1] for name in request_ids],
        }
    )
    ids = sorted(set(metadata) | set(columns["item_id"]))
    movies = [metadata.get(item, {}) for item in ids]
    table: dict[str, Any] = {"item_id": ids}
    for feature in schema.features:
        if feature.kind == "vector":
            bags = [movie.get(feature.name, ()) for movie in movies]
            vectors = token_vectors(bags, feature.width)
            # A movie without metadata has null; metadata without tokens gives a row of zeros.
            values = [v.tolist() if m else None for v, m in zip(vectors, movies, strict=True)]
        else:
            values = [movie.get(feature.name) for movie in movies]
        if feature.kind != "statistic":
            table[feature.name] = pl.Series(values, dtype=DTYPES[feature.kind])
    users = pl.DataFrame({"user_id": sorted(set(requests["user_id"]))})
    return Source(rows.lazy(), requests, pl.DataFrame(table), users)


def _movie_features(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the features of one movie; a vector's entry holds the tokens it is made from."""
    names = ("popularity", "vote_avg", "vote_cnt", "runtime", "genres", "tags", "actors")
    words = f"{fields.get('title', '')} {fields.get('description', '')}".lower()
    people = (*(fields.get("actors") or ()), fields.get("director"), fields.get("writer"))
    released = fields.get("release_date")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    year = None if released is None else (epoch + timedelta(seconds=released)).year
    return {
        **{name: fields.get(name) for name in names},
        "budget": fields.get("budget") or None,  # 0 means unknown
        "release_year": year,
        "director": fields.get("director"),
        "tags_vector": fields.get("tags") or (),
        "people_vector": [person for person in people if person],
        "text_vector": "".join(c if c.isalnum() else " " for c in words).split(),
    }
