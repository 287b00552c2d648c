"""Titles, years, genres and directors of RankLens's movies, for the page /playground."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from model.data.errors import DataError

NOTICE = (
    "Titles, release years, genres and directors from the RankLens data set by the Metarank "
    "project, CC BY-SA 4.0 (data/ranklens/LICENSE.CC-BY-SA-4.0.md); a selection, not changed."
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Movie = list[Any]  # title, year, genres, director; year and director are None where unknown


def read_titles(path: Path, ids: Collection[str]) -> dict[str, Movie]:
    """Return the movie of each id that `events.jsonl.gz` describes, ordered by id.

    Raises DataError for a file without any of them.
    """
    kept, movies = frozenset(ids), {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            event = json.loads(line)
            if event["event"] == "item" and str(event["item"]) in kept:
                fields = {entry["name"]: entry["value"] for entry in event["fields"]}
                movies[str(event["item"])] = _movie(fields)
    if not movies:
        raise DataError(path, "must describe some item of the bundle")
    return dict(sorted(movies.items(), key=lambda entry: (len(entry[0]), entry[0])))


def write_titles(out: Path, movies: dict[str, Movie], model: str) -> None:
    """Write the movies of a model of that name, a line each, so that changes can be read."""
    lines = ",\n".join(f"{json.dumps(item)}: {_compact(movie)}" for item, movie in movies.items())
    head = f'"notice": {json.dumps(NOTICE)},\n"model": {json.dumps(model)}'
    out.write_text(f'{{{head},\n"items": {{\n{lines}\n}}}}\n', encoding="utf-8")


def _movie(fields: dict[str, Any]) -> Movie:
    released = fields.get("release_date")
    year = None if released is None else (EPOCH + timedelta(seconds=released)).year
    return [fields.get("title"), year, fields.get("genres") or [], fields.get("director")]


def _compact(movie: Movie) -> str:
    return json.dumps(movie, ensure_ascii=False, separators=(",", ":"))
