"""Checks of every response to a fuzzed request: the contract of docs/service.md.

A check returns an error as text, or None. Checks know the service only from outside: its document,
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
class Response:
    """One HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Bundle:
    """The parts of a bundle that checks and strategies use.

    categories: vocabularies by name; values: for each category, the value of each item, for the
    items whose value the model has a name for.
    """

    ids: list[str]
    categories: dict[str, list[str]]
    values: dict[str, dict[str, str]]

    @functools.cached_property
    def items(self) -> frozenset[str]:
        """The ids as a set."""
        return frozenset(self.ids)

    @classmethod
    def read(cls, directory: Path) -> Bundle:
        """Read features.json and items.npz. Raises OSError or KeyError for no bundle."""
        features = json.loads((directory / "features.json").read_text("utf-8"))["features"]
        with np.load(directory / "items.npz", allow_pickle=False) as table:
            ids, tokens = table["ids"].tolist(), table["tokens"]
        categories, values, slot, first = {}, {}, 0, 1
        for feature in features:
            if feature["kind"] not in ("identifier", "category", "categories"):
                continue
            if feature["kind"] == "category" and feature["of"] == "item":
                # The first token stands for every value without a name, 0 for a missing one.
                named = zip(ids, (tokens[:, slot] - first).tolist(), strict=True)
                words = categories[feature["name"]] = feature["vocabulary"]
                values[feature["name"]] = {item: words[at - 1] for item, at in named if at > 0}
            slot += feature.get("width", 1)
            first += 1 + len(feature.get("vocabulary", ids))
        return cls(ids, categories, values)

    def group(self, candidate: Mapping[str, Any], name: str) -> Any:
        """Return the candidate's value of an attribute, None when it is a group of its own."""
        groups = candidate.get("groups") or {}
        if groups.get(name) is not None:
            return groups[name]
        inline = candidate.get("features") or {}
        if name in self.categories and inline.get(name) is not None:
            return str(inline[name])
        return self.values.get(name, {}).get(candidate["id"])


def as_text(item: str | float) -> str:
    """Return an id as text: an integer is the same id as its decimal text."""
    return item if isinstance(item, str) else str(int(item))


@dataclass
class Exchange:
    """One list of a request and its response."""

    request: dict[str, Any]
    response: dict[str, Any]
    bundle: Bundle
    info: dict[str, Any]  # of GET /info

    @property
    def slate(self) -> list[dict[str, Any]]:
        """The entries of the response."""
        slate: list[dict[str, Any]] = self.response["slate"]
        return slate

    @property
    def ids(self) -> list[str]:
        """The ids of the candidates, as text."""
        return [candidate["id"] for candidate in self.candidates]

    @functools.cached_property
    def sent_ids(self) -> list[Any]:
        """The ids of the candidates, as they were sent."""
        sent = self.request["candidates"]
        if isinstance(sent, list):
            return [one["id"] if isinstance(one, dict) else one for one in sent]
        return list(sent["id"])

    @functools.cached_property
    def candidates(self) -> list[dict[str, Any]]:
        """The candidates as records with ids as text, in whatever form they were sent."""
        sent = self.request["candidates"]
        if isinstance(sent, list):
            more = [one if isinstance(one, dict) else {} for one in sent]
        else:
            columns = [
                (field, name, values)
                for field in ("features", "groups")
                for name, values in (sent.get(field) or {}).items()
                if values is not None
            ]
            more = [{"features": {}, "groups": {}} for _ in self.sent_ids]
            for field, name, values in columns:
                for candidate, value in zip(more, values, strict=True):
                    candidate[field][name] = value
        return [
            {**candidate, "id": as_text(item)}
            for candidate, item in zip(more, self.sent_ids, strict=True)
        ]

    @property
    def pinned(self) -> dict[str, int]:
        """The position of each pinned id."""
        return self.option("constraints", "pinned") or {}

    @property
    def blocked(self) -> set[str]:
        """The blocked ids, as text."""
        return {as_text(item) for item in self.option("constraints", "blocked") or ()}

    def option(self, *keys: str) -> Any:
        """Return a value of the request, None when it or its parent is missing or null."""
        value: Any = self.request
        for key in keys:
            value = (value or {}).get(key)
        return value

    def limit(self) -> tuple[str, int] | None:
        """Return the attribute of max_per_group and its quota."""
        return next(iter((self.option("constraints", "max_per_group") or {}).items()), None)


def length(exchange: Exchange) -> str | None:
    """Check the length: as requested, else what bundle, candidates and constraints allow."""
    longest = min(len(exchange.ids), exchange.info["slate_length"])
    expected = exchange.option("slate_size") or _fillable(exchange, longest)
    count = len(exchange.slate)
    return None if count == expected else f"{count} items, {expected} expected"


def _fillable(exchange: Exchange, longest: int) -> int:
    """Return the number of positions that can be filled."""
    pinned = exchange.pinned
    excluded = {*exchange.blocked, *pinned}
    eligible = [c for c in exchange.candidates if c["id"] not in excluded]
    fill, limit = len(eligible), exchange.limit()
    if limit is not None:
        name, quota = limit
        groups = [exchange.bundle.group(candidate, name) for candidate in eligible]
        held = Counter(
            exchange.bundle.group(candidate, name)
            for candidate in exchange.candidates
            if candidate["id"] in pinned
        )
        fill = sum(
            count if group is None else min(count, max(0, quota - held[group]))
            for group, count in Counter(groups).items()
        )
    below = (size - sum(at < size for at in pinned.values()) for size in range(longest + 1))
    return max(size for size, free in enumerate(below) if free <= fill)


def candidates(exchange: Exchange) -> str | None:
    """Check that the slate has distinct candidates as they were sent, at the right positions."""
    ids = [as_text(entry["id"]) for entry in exchange.slate]
    if len(set(ids)) < len(ids):
        return f"an id is repeated: {ids}"
    for position, entry in enumerate(exchange.slate):
        initial = entry["initial_position"]
        if entry["position"] != position:
            return f"position {entry['position']} stands at {position}"
        if not 0 <= initial < len(exchange.ids):
            return f"{initial} is no initial position"
        sent = exchange.sent_ids[initial]
        if entry["id"] != sent or type(entry["id"]) is not type(sent):
            return f"{entry['id']!r} is not candidate {initial}, {sent!r}"
    return None


def blocked(exchange: Exchange) -> str | None:
    """Check that no blocked id is in the slate."""
    wrong = exchange.blocked & {as_text(entry["id"]) for entry in exchange.slate}
    return f"blocked ids in the slate: {wrong}" if wrong else None


def pinned(exchange: Exchange) -> str | None:
    """Check that every pinned id is at its position, without reasoning."""
    for item, position in exchange.pinned.items():
        if position >= len(exchange.slate) or as_text(exchange.slate[position]["id"]) != item:
            return f"{item!r} is not at {position}"
        if exchange.slate[position]["reasoning_steps"]:
            return f"reasoned about the pinned position {position}"
    return None


def max_per_group(exchange: Exchange) -> str | None:
    """Check that no group has more items than its quota."""
    limit = exchange.limit()
    if limit is None:
        return None
    groups = {c["id"]: exchange.bundle.group(c, limit[0]) for c in exchange.candidates}
    for value, count in Counter(groups[as_text(entry["id"])] for entry in exchange.slate).items():
        if value is not None and count > limit[1]:
            return f"{count} items of {limit[0]} {value!r}, at most {limit[1]}"
    return None


def steps(exchange: Exchange) -> str | None:
    """Check that steps add up within the granted budget, and that within the requested one."""
    reasoning = exchange.response["reasoning"]
    requested = exchange.option("reasoning", "budget")
    budget = exchange.info["budget_per_position"] if requested is None else requested
    taken = [entry["reasoning_steps"] for entry in exchange.slate]
    granted = reasoning["budget_per_position"]
    reduced = (exchange.response["degraded"] or {}).get("reason") == "reduced_budget"
    expected = (sum(taken), granted * len(taken), budget)
    reported = (reasoning["steps_used"], reasoning["budget"], reasoning["budget_asked"])
    if reported != expected or (granted < budget) != reduced or granted > budget:
        return f"steps used, budget, asked: {reported}, {expected} expected, {granted} granted"
    within = all(0 <= count <= granted for count in taken)
    return None if within else f"{taken} steps, at most {granted} each"


def figures(exchange: Exchange) -> str | None:
    """Check the model's figures: possible ones, and none in a response without the model."""
    names = ("logprob", "entropy", "entropy_after")
    chosen = [entry for entry in exchange.slate if as_text(entry["id"]) not in exchange.pinned]
    values = [entry[name] for entry in chosen for name in names]
    reason = exchange.response["degraded"] and exchange.response["degraded"]["reason"]
    if reason == "model_error":
        return "the model failed"
    if reason not in (None, "reduced_budget"):
        if any(value is not None for value in values):
            return "a degraded answer with figures of the model"
        order = [e["initial_position"] for e in exchange.slate]
        kept = exchange.option("constraints") or order == sorted(order)
        return None if kept else f"degraded to {order}"
    if any(value is None for value in values):
        return "figures of the model are missing"
    if (exchange.response["utility"] is None) != (exchange.option("sampling") is None):
        return f"utility {exchange.response['utility']}, sampling {exchange.option('sampling')}"
    for entry in chosen:
        if entry["logprob"] > 1e-4 or min(entry["entropy"], entry["entropy_after"]) < -1e-4:
            return f"impossible figures: {entry}"
    return None


def unknown_candidates(exchange: Exchange) -> str | None:
    """Check the number of candidates that the bundle has no item for."""
    count = exchange.response["unknown_candidates"]
    expected = sum(item not in exchange.bundle.items for item in exchange.ids)
    return None if count == expected else f"{count} unknown candidates, {expected} expected"


CHECKS = (
    length, candidates, blocked, pinned, max_per_group, steps, figures, unknown_candidates,
)  # fmt: skip
LIST_CHECKS = {check.__name__: check for check in CHECKS}

SCHEMAS = ("RerankRequest", "BatchRequest", "RerankResponse", "BatchResponse", "Problem")


class Contract:
    """The checks of one service, with its OpenAPI document and its /info."""

    def __init__(self, document: dict[str, Any], info: dict[str, Any], bundle: Bundle) -> None:
        self._info, self._bundle = info, bundle
        self._schemas = {
            name: jsonschema_rs.validator_for(
                {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            )
            for name in SCHEMAS
        }

    def check(self, message: Message, response: Response) -> Iterator[tuple[str, str | None]]:
        """Yield the name of each check that applies, with its error."""
        server_error = f"status {response.status}" if response.status >= 500 else None
        yield "no_server_error", server_error
        if response.status >= 400:
            yield "problem", self._problem(message, response)
            return
        path = message.target.split("?")[0]
        if response.status != 200 or message.method != "POST" or path not in PATHS:
            return
        kind = "Batch" if path in PATHS[2:] else "Rerank"
        packed = is_msgpack(message.headers)
        try:
            request = ormsgpack.unpackb(message.body) if packed else json.loads(message.body)
        except ValueError as error:
            yield "request", f"accepted what does not read: {error}"
            return
        error_of_request = self._schema_error(f"{kind}Request", request)
        yield "request", error_of_request
        if error_of_request is not None:  # the checks below read it as the document has it
            return
        try:
            content = _decoded(response)
        except ValueError as error:
            yield "response", str(error)
            return
        error_of_response = self._schema_error(f"{kind}Response", content)
        yield "response", error_of_response
        if error_of_response is None:
            yield from self._check_lists(kind, request, content)

    def _check_lists(
        self, kind: str, request: dict[str, Any], content: dict[str, Any]
    ) -> Iterator[tuple[str, str | None]]:
        lists: Sequence[tuple[Any, Any]] = [(request, content)]
        if kind == "Batch":
            counts = len(request["requests"]), len(content["responses"])
            yield "one_answer_per_list", None if counts[0] == counts[1] else "not one per list"
            lists = list(zip(request["requests"], content["responses"], strict=False))
        for one, answer in lists:
            exchange = Exchange(one, answer, self._bundle, self._info)
            for name, check in LIST_CHECKS.items():
                yield name, check(exchange)

    def _problem(self, message: Message, response: Response) -> str | None:
        """Check an error response."""
        kind = response.headers.get("content-type")
        if kind != "application/problem+json":
            return f"content type {kind}"
        if message.method == "HEAD":
            return None
        sent = message.wire()  # a response may quote its values
        if any(m in response.body and m[:4] not in sent for m in (b"Traceback", b'File \\"')):
            return "a stack trace"
        try:
            problem = json.loads(response.body, parse_constant=_no_number)
        except ValueError as error:
            return str(error)
        schema_error = self._schema_error("Problem", problem)
        if schema_error is not None:
            return schema_error
        request_id = response.headers.get("x-request-id")
        if problem["status"] != response.status or problem["request_id"] != request_id:
            return "status or request_id is another than the response's"
        refused = problem["code"] == "bad_json" and not is_msgpack(message.headers)
        return "JSON refused as none" if refused and _is_json(message.body) else None

    def _schema_error(self, name: str, value: Any) -> str | None:
        error = next(self._schemas[name].iter_errors(value), None)
        return None if error is None else f"{name}: {error.message}"[:300]


def _decoded(response: Response) -> Any:
    """Return the content of a response. Raises ValueError."""
    if response.headers.get("content-type") == MSGPACK:
        return ormsgpack.unpackb(response.body)
    return json.loads(response.body, parse_constant=_no_number, parse_float=_finite)


def _is_json(content: bytes) -> bool:
    """Return True if every parser reads it: UTF-8, numbers within a double's, not nested deep."""
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
