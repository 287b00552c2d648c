"""Request bodies of every kind that a service meets, drawn from a bundle's items."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ormsgpack

from loadtest.bundle_files import read_item_ids
from loadtest.errors import UsageError

JSON, MSGPACK = "application/json", "application/msgpack"
HISTORY = 48  # ratings in a user's history
MARK = 0.123456789  # a label that a body of its own number replaces
LISTS = 8  # in a batch call
SIZES = (10, 20, 30, 50, 75, 100, 150, 200, 300, 500)  # of mixed lists, weighted by Zipf's law


def read_bundle(bundle: Path, name: str) -> Any:
    """Return a JSON file of a bundle. Raises UsageError."""
    with naming(bundle, name):
        return json.loads((bundle / name).read_text("utf-8"))


@contextmanager
def naming(bundle: Path, name: str) -> Iterator[None]:
    """Raise UsageError naming bundle and file where the body cannot read the file."""
    try:
        yield
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError, KeyError) as error:
        problem = f"cannot be read: {error}"
    else:
        return
    raise UsageError(
        f"--bundle: {bundle}: {name} {problem}; name a bundle's directory, as bundles/ranklens/1"
    )


def item_ids(bundle: Path) -> list[str]:
    """Return the ids of all items of a bundle. Raises UsageError for a directory that is none."""
    read_bundle(bundle, "manifest.json")
    with naming(bundle, "the table of items"):
        return read_item_ids(bundle)


@dataclass(frozen=True)
class Catalogue:
    """The parts of requests: item ids, and the features that may be sent inline."""

    ids: Sequence[str]
    features: Sequence[Mapping[str, Any]]
    longest: int
    slate_length: int

    @classmethod
    def of(cls, bundle: Path) -> Catalogue:
        """Read a bundle. Raises UsageError for a directory that is none."""
        ids = item_ids(bundle)
        try:
            features = read_bundle(bundle, "features.json")["features"]
            manifest = read_bundle(bundle, "manifest.json")
            return cls(ids, features, manifest["max_candidates"], manifest["slate_length"])
        except (KeyError, TypeError) as error:
            raise UsageError(f"--bundle: {bundle}: a field is missing: {error}") from error


@dataclass(frozen=True)
class RequestOptions:
    """Candidates per list, positions per slate, budget per position; None: the default."""

    candidates: int = 50
    slate_size: int | None = None
    budget: int | None = None
    entropy_threshold: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """Bodies of one kind, their path, the expected statuses, and the media type."""

    name: str
    path: str
    bodies: Sequence[bytes]
    expected: Sequence[int] = (200,)
    media_type: str = JSON

    def packed(self) -> Scenario:
        """Return the same requests as MessagePack."""
        if isinstance(self.bodies, NumberedBodies):
            bodies: Sequence[bytes] = self.bodies.packed()
        else:
            bodies = [ormsgpack.packb(json.loads(body)) for body in self.bodies]
        return dataclasses.replace(self, bodies=bodies, media_type=MSGPACK)


class NumberedBodies(Sequence[bytes]):
    """Bodies whose MARK is another number whenever one is read, so that no history returns."""

    def __init__(self, bodies: Sequence[bytes], write: Callable[[float], bytes]) -> None:
        """write: returns a number of 9 digits in as many bytes as any other."""
        self._bodies, self._write = bodies, write
        self._places = [body.index(write(MARK)) for body in bodies]

    def __len__(self) -> int:
        return len(self._bodies)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        body, place = self._bodies[index], self._places[index]
        number = self._write(random.randrange(1, 10**9) / 1e9)
        return body[:place] + number + body[place + len(number) :]

    def encoded(self, encode: Callable[[bytes], bytes]) -> NumberedBodies:
        """Return the same bodies in another form that has the number as it is."""
        return NumberedBodies([encode(body) for body in self._bodies], self._write)

    def packed(self) -> NumberedBodies:
        """Return the same bodies as MessagePack."""
        return NumberedBodies([ormsgpack.packb(json.loads(b)) for b in self._bodies], packed_number)


def json_number(number: float) -> bytes:
    """Return a number below 1 as JSON text."""
    return f"{number:.9f}".encode()


def packed_number(number: float) -> bytes:
    """Return a number as MessagePack."""
    return ormsgpack.packb(number)


Make = Callable[[Catalogue, RequestOptions, random.Random], dict[str, Any]]


def ids_only(catalogue: Catalogue, options: RequestOptions, draw: random.Random) -> dict[str, Any]:
    """Return a body of ids alone, with the features that the bundle requires."""
    count = min(options.candidates, len(catalogue.ids), catalogue.longest)
    body: dict[str, Any] = {"candidates": draw.sample(catalogue.ids, count)}
    if needed := [f for f in catalogue.features if f.get("required") and f["of"] == "candidate"]:
        body["candidates"] = [
            {"id": item, "features": {f["name"]: value(f, draw) for f in needed}}
            for item in body["candidates"]
        ]
    if options.slate_size is not None:
        body["slate_size"] = min(options.slate_size, count)
    limits = {"budget": options.budget, "entropy_threshold": options.entropy_threshold}
    if reasoning := {name: limit for name, limit in limits.items() if limit is not None}:
        body["reasoning"] = reasoning
    return body | dict(options.extra)


def history(catalogue: Catalogue, options: RequestOptions, draw: random.Random) -> dict[str, Any]:
    """Return a body of ids for a user with a history."""
    past = draw.sample(catalogue.ids, min(HISTORY, len(catalogue.ids)))
    ratings = [{"id": item, "label": draw.randint(0, 1)} for item in past]
    return ids_only(catalogue, options, draw) | {"user": {"history": ratings}}


def distinct(catalogue: Catalogue, options: RequestOptions, draw: random.Random) -> dict[str, Any]:
    """Return the same with a MARK, for NumberedBodies."""
    body = history(catalogue, options, draw)
    body["user"]["history"][0]["label"] = MARK
    return body


def inline(catalogue: Catalogue, options: RequestOptions, draw: random.Random) -> dict[str, Any]:
    """Return a body with the candidates' features, as from a caller with the feature store."""
    usable = [f for f in catalogue.features if f["of"] in ("item", "candidate")]
    sent = [f for f in usable if f["kind"] != "vector" and f["name"] not in ("item_id", "score")]
    body = ids_only(catalogue, options, draw)
    body["candidates"] = [
        {
            "id": each if isinstance(each, str) else each["id"],
            "features": {f["name"]: value(f, draw) for f in sent[:8]},
        }
        for each in body["candidates"]
    ]
    return body


def mixed(catalogue: Catalogue, options: RequestOptions, draw: random.Random) -> dict[str, Any]:
    """Return a list of one of many sizes: short ones are common, long ones rare."""
    weights = [1 / rank for rank in range(1, len(SIZES) + 1)]
    (size,) = draw.choices(SIZES, weights)
    return ids_only(catalogue, RequestOptions(size, options.slate_size, options.budget), draw)


def constrained(
    catalogue: Catalogue, options: RequestOptions, draw: random.Random
) -> dict[str, Any]:
    """Return a body with a pinned item, two blocked ones, and at most three per shelf."""
    body = ids_only(catalogue, options, draw)
    records: list[dict[str, Any]] = [
        {"id": e} if isinstance(e, str) else e for e in body["candidates"]
    ]
    for record in records:
        record["groups"] = {"shelf": str(draw.randint(0, 7))}
    pinned, *blocked = (record["id"] for record in draw.sample(records, min(3, len(records))))
    return body | {
        "candidates": records,
        "constraints": {
            "pinned": {pinned: 0}, "blocked": blocked, "max_per_group": {"shelf": 3},
        },
    }  # fmt: skip


def explained(catalogue: Catalogue, options: RequestOptions, draw: random.Random) -> dict[str, Any]:
    """Return a body that requests an explanation of each position."""
    return ids_only(catalogue, options, draw) | {"explain": True}


def batch(catalogue: Catalogue, options: RequestOptions, draw: random.Random) -> dict[str, Any]:
    """Return several lists for one call."""
    return {"requests": [ids_only(catalogue, options, draw) for _ in range(LISTS)]}


def bad(catalogue: Catalogue, options: RequestOptions, draw: random.Random) -> dict[str, Any]:
    """Return a client's mistake: an unknown field, no candidates, an id twice, a wrong type."""
    body = ids_only(catalogue, options, draw)
    mistake: dict[str, Any] = draw.choice(
        [
            {"candidate": body["candidates"]},
            {"candidates": []},
            {"candidates": [body["candidates"][0]] * 2},
            {"slate_size": "ten"},
            {"slate_size": len(body["candidates"]) + 1},
        ]
    )
    return body | mistake


MAKERS: dict[str, Make] = {
    "ids": ids_only, "history": distinct, "returning": history, "inline": inline, "mixed": mixed,
    "constraints": constrained, "explain": explained, "batch": batch, "bad": bad,
}  # fmt: skip


def scenario(
    name: str, catalogue: Catalogue, options: RequestOptions, count: int = 64, seed: int = 0
) -> Scenario:
    """Return `count` bodies of a kind, the same for the same seed. Raises KeyError for its name.

    Only bodies of `history` differ in a label each time that they are read.
    """
    draw, make = random.Random(seed), MAKERS[name]
    bodies: Sequence[bytes]
    bodies = [json.dumps(make(catalogue, options, draw)).encode() for _ in range(count)]
    if make is distinct:
        bodies = NumberedBodies(bodies, json_number)
    path = "/rerank/batch" if name == "batch" else "/rerank"
    return Scenario(name, path, bodies, (422,) if name == "bad" else (200,))


def value(feature: Mapping[str, Any], draw: random.Random) -> Any:
    """Return a likely value of a feature."""
    if feature["kind"] in ("number", "statistic"):
        return round(max(0.0, draw.gauss(1.0, 0.3)), 3)
    words = feature.get("vocabulary") or ["none"]
    if feature["kind"] == "categories":
        return draw.sample(words, min(feature["width"], 3, len(words)))
    return draw.choice(words)


def lists_with_deadline(
    bundle: Path, candidates: int, timeout_ms: float, slates: int = 1, count: int = 64
) -> list[bytes]:
    """Return bodies of ids alone with a deadline (ms), the best of `slates` sampled slates each."""
    ids = item_ids(bundle)
    if candidates > len(ids):
        raise UsageError(f"--candidates: 1 to {len(ids)} for {bundle}, got {candidates}")
    draw = random.Random(0)
    bodies = []
    for seed in range(count):
        body: dict[str, Any] = {"candidates": draw.sample(ids, candidates)}
        body["timeout_ms"] = timeout_ms
        if slates > 1:
            body["sampling"] = {"slates": slates, "seed": seed}
        bodies.append(json.dumps(body).encode())
    return bodies
