"""What every answer must be, whatever was asked; the contract of docs/service.md.

A check returns what is wrong, or None. Checks know the service only from outside: its document,
`/info` and the bundle's files.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import ormsgpack

from loadtest.fuzz_requests import MSGPACK, PATHS, Message, is_msgpack


@dataclass(frozen=True)
class Answer:
    """One HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Bundle:
    """What the checks and strategies read of a bundle's files.

    categories: vocabularies by name; values: each known item's value of a category, counted
    from 1 in its vocabulary, for the items whose value the model knows by name.
    """

    ids: list[str]
    categories: dict[str, list[str]]
    values: dict[str, dict[str, int]]

    @classmethod
    def read(cls, directory: Path) -> Bundle:
        """From features.json and items.npz. Raises OSError or KeyError for no bundle."""
        features = json.loads((directory / "features.json").read_text("utf-8"))["features"]
        with np.load(directory / "items.npz", allow_pickle=False) as table:
            ids, tokens = table["ids"].tolist(), table["tokens"]
        categories, values, slot, first = {}, {}, 0, 1
        for feature in features:
            if feature["kind"] not in ("identifier", "category", "categories"):
                continue
            if feature["kind"] == "category" and feature["of"] == "item":
                # The first token stands for every value without a name, 0 for none.
                named = zip(ids, (tokens[:, slot] - first).tolist(), strict=True)
                categories[feature["name"]] = feature["vocabulary"]
                values[feature["name"]] = {item: value for item, value in named if value > 0}
            slot += feature.get("width", 1)
            first += 1 + len(feature.get("vocabulary", ids))
        return cls(ids, categories, values)

    def group(self, candidate: Mapping[str, Any], name: str) -> Any:
        """The candidate's value of an attribute, None where it is a group of its own."""
        own = candidate.get("groups") or {}
        if own.get(name) is not None:
            return own[name]
        inline = candidate.get("features") or {}
        if inline.get(name) is not None:
            known = self.categories.get(name, [])
            return known.index(inline[name]) + 1 if inline[name] in known else None
        return self.values.get(name, {}).get(candidate["id"])


@dataclass
class Asked:
    """One list of a request and what was answered to it."""

    body: dict[str, Any]
    answer: dict[str, Any]
    bundle: Bundle
    info: dict[str, Any]  # of GET /info

    @property
    def slate(self) -> list[dict[str, Any]]:
        """The entries of the answer."""
        return self.answer["slate"]

    @property
    def ids(self) -> list[str]:
        """The ids of the candidates."""
        return [candidate["id"] for candidate in self.candidates]

    @functools.cached_property
    def candidates(self) -> list[dict[str, Any]]:
        """The candidates as records, however they were written."""
        given = self.body["candidates"]
        if isinstance(given, list):
            return [{"id": one} if isinstance(one, str) else one for one in given]
        named = {field: list((given.get(field) or {}).items()) for field in ("features", "groups")}
        return [
            {"id": item, **{f: {n: values[i] for n, values in c} for f, c in named.items()}}
            for i, item in enumerate(given["id"])
        ]

    def knob(self, *way: str) -> Any:
        """A value of the body, None where it or what holds it is missing or null."""
        value: Any = self.body
        for name in way:
            value = (value or {}).get(name)
        return value

    def limit(self) -> tuple[str, int] | None:
        """The attribute of max_per_group and its quota."""
        return next(iter((self.knob("constraints", "max_per_group") or {}).items()), None)


def length(asked: Asked) -> str | None:
    """As long as asked for; else as long as bundle, candidates and constraints allow."""
    longest = min(len(asked.ids), asked.info["slate_length"])
    wanted = asked.knob("slate_size") or _fillable(asked, longest)
    return None if len(asked.slate) == wanted else f"{len(asked.slate)} items, {wanted} expected"


def _fillable(asked: Asked, longest: int) -> int:
    pinned = asked.knob("constraints", "pinned") or {}
    blocked = {*(asked.knob("constraints", "blocked") or ()), *pinned}
    open_ = [c for c in asked.candidates if c["id"] not in blocked]
    fill, limit = len(open_), asked.limit()
    if limit is not None:
        name, most = limit
        groups = [asked.bundle.group(candidate, name) for candidate in open_]
        held = Counter(
            asked.bundle.group(candidate, name)
            for candidate in asked.candidates
            if candidate["id"] in pinned
        )
        fill = sum(
            count if group is None else min(count, max(0, most - held[group]))
            for group, count in Counter(groups).items()
        )
    below = (size - sum(at < size for at in pinned.values()) for size in range(longest + 1))
    return max(size for size, free in enumerate(below) if free <= fill)


def candidates(asked: Asked) -> str | None:
    """Distinct candidates of the request, each told with its position before and after."""
    ids = [entry["id"] for entry in asked.slate]
    if len(set(ids)) < len(ids):
        return f"an id is repeated: {ids}"
    for position, entry in enumerate(asked.slate):
        before = entry["initial_position"]
        if entry["position"] != position:
            return f"position {entry['position']} stands at {position}"
        if not 0 <= before < len(asked.ids) or asked.ids[before] != entry["id"]:
            return f"{entry['id']!r} is not candidate {before}"
    return None


def blocked(asked: Asked) -> str | None:
    """No blocked id in the slate."""
    found = set(asked.knob("constraints", "blocked") or ()) & {e["id"] for e in asked.slate}
    return f"blocked ids in the slate: {found}" if found else None


def pinned(asked: Asked) -> str | None:
    """Every pinned id at its position, which took no reasoning."""
    for item, position in (asked.knob("constraints", "pinned") or {}).items():
        if position >= len(asked.slate) or asked.slate[position]["id"] != item:
            return f"{item!r} is not at {position}"
        if asked.slate[position]["reasoning_steps"]:
            return f"reasoned about the pinned position {position}"
    return None


def max_per_group(asked: Asked) -> str | None:
    """At most so many items of one value."""
    limit = asked.limit()
    if limit is None:
        return None
    of = {c["id"]: asked.bundle.group(c, limit[0]) for c in asked.candidates}
    for value, count in Counter(of[entry["id"]] for entry in asked.slate).items():
        if value is not None and count > limit[1]:
            return f"{count} items of {limit[0]} {value!r}, at most {limit[1]}"
    return None


def steps(asked: Asked) -> str | None:
    """Steps add up, within what was granted, and that within what was asked for."""
    used = asked.answer["reasoning"]
    most = asked.knob("reasoning", "budget")
    most = asked.info["budget_per_position"] if most is None else most
    taken = [entry["reasoning_steps"] for entry in asked.slate]
    granted = used["budget_per_position"]
    reduced = (asked.answer["degraded"] or {}).get("reason") == "reduced_budget"
    expected = (sum(taken), granted * len(taken), most)
    told = (used["steps_used"], used["budget"], used["budget_asked"])
    if told != expected or (granted < most) != reduced or granted > most:
        return f"steps used, budget, asked: {told}, {expected} expected, {granted} granted"
    most = granted
    return None if all(0 <= n <= most for n in taken) else f"{taken} steps, at most {most} each"


def figures(asked: Asked) -> str | None:
    """The model's own figures, possible ones; none in a degraded answer, which has a reason."""
    names = ("logprob", "entropy", "entropy_after")
    pins = (asked.knob("constraints", "pinned") or {}).keys()
    chosen = [entry for entry in asked.slate if entry["id"] not in pins]
    told = [entry[name] for entry in chosen for name in names]
    reason = asked.answer["degraded"] and asked.answer["degraded"]["reason"]
    if reason == "model_error":
        return "the model failed"
    if reason not in (None, "reduced_budget"):
        if any(value is not None for value in told):
            return "a degraded answer with figures of the model"
        free = [e["initial_position"] for e in asked.slate]
        return None if asked.knob("constraints") or free == sorted(free) else f"degraded to {free}"
    if any(value is None for value in told):
        return "figures of the model are missing"
    if (asked.answer["utility"] is None) != (asked.knob("sampling") is None):
        return f"utility {asked.answer['utility']}, sampling {asked.knob('sampling')}"
    for entry in chosen:
        if entry["logprob"] > 1e-4 or min(entry["entropy"], entry["entropy_after"]) < -1e-4:
            return f"impossible figures: {entry}"
    return None


LIST_CHECKS = {
    check.__name__: check
    for check in (length, candidates, blocked, pinned, max_per_group, steps, figures)
}

SCHEMAS = ("RerankRequest", "BatchRequest", "RerankResponse", "BatchResponse", "Problem")


class Contract:
    """The checks of one service."""

    def __init__(self, document: dict[str, Any], info: dict[str, Any], bundle: Bundle) -> None:
        self._info, self._bundle = info, bundle
        self._schemas = {
            name: jsonschema_rs.validator_for(
                {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            )
            for name in SCHEMAS
        }

    def check(self, sent: Message, answer: Answer) -> Iterator[tuple[str, str | None]]:
        """Each check that applies, by name, with what it found wrong."""
        yield "no_server_error", f"status {answer.status}" if answer.status >= 500 else None
        if answer.status >= 400:
            yield "problem", self._problem(sent, answer)
            return
        path = sent.target.split("?")[0]
        if answer.status != 200 or sent.method != "POST" or path not in PATHS:
            return
        kind = "Batch" if path in PATHS[2:] else "Rerank"
        packed = is_msgpack(sent.headers)
        try:
            asked = ormsgpack.unpackb(sent.body) if packed else json.loads(sent.body)
        except ValueError as error:
            yield "request", f"accepted what does not read: {error}"
            return
        unfit = self._unfit(f"{kind}Request", asked)
        yield "request", unfit
        if unfit is not None:  # the checks below read it as the document has it
            return
        try:
            told = (
                ormsgpack.unpackb(answer.body)
                if answer.headers.get("content-type") == MSGPACK
                else json.loads(answer.body, parse_constant=_no_number, parse_float=_finite)
            )
        except ValueError as error:
            yield "response", str(error)
            return
        unfit = self._unfit(f"{kind}Response", told)
        yield "response", unfit
        if unfit is not None:
            return
        lists: Sequence[Any] = [(asked, told)]
        if kind == "Batch":
            yield (
                "one_answer_per_list",
                (None if len(asked["requests"]) == len(told["responses"]) else "not one per list"),
            )
            lists = list(zip(asked["requests"], told["responses"], strict=False))
        for one in (Asked(*pair, self._bundle, self._info) for pair in lists):
            for name, check in LIST_CHECKS.items():
                yield name, check(one)

    def _problem(self, sent: Message, answer: Answer) -> str | None:
        kind = answer.headers.get("content-type")
        if kind != "application/problem+json":
            return f"content type {kind}"
        if sent.method == "HEAD":
            return None
        asked = sent.wire()  # whose values an answer may tell back
        if any(m in answer.body and m[:4] not in asked for m in (b"Traceback", b'File \\"')):
            return "a stack trace"
        try:
            told = json.loads(answer.body, parse_constant=_no_number)
        except ValueError as error:
            return str(error)
        unfit = self._unfit("Problem", told)
        if unfit is not None:
            return unfit
        same = told["status"] == answer.status and (
            told["request_id"] == answer.headers.get("x-request-id")
        )
        if not same:
            return "status or request_id is another than the response's"
        return (
            "JSON refused as none"
            if told["code"] == "bad_json" and not is_msgpack(sent.headers) and _is_json(sent.body)
            else None
        )

    def _unfit(self, name: str, value: Any) -> str | None:
        error = next(self._schemas[name].iter_errors(value), None)
        return None if error is None else f"{name}: {error.message}"[:300]


def _is_json(content: bytes) -> bool:
    """Whether every parser reads it: UTF-8, numbers within a double's, not nested deep."""
    if content.count(b"[") + content.count(b"{") > 900:
        return False
    try:
        text = content.decode()
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
    except ValueError:
        return False
    return True


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value
