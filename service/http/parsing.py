"""Request bodies: from bytes to validated models and the featuriser's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import orjson
import ormsgpack
from pydantic import BaseModel, ValidationError

from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import Column
from service.engine.rows import SlateSampling
from service.errors import BadRequest, FieldError, InvalidRequest, UnsupportedMedia
from service.http.columns import unpacked, unpacked_numbers, without_nulls
from service.http.duplicates import refuse_repeated_keys
from service.http.fields import ID, IDS, RECORDS, TAGS, TERM, VALUES, PackedNumbers
from service.http.ids import ID_ERROR, ID_RULE
from service.http.intent import requested_intent
from service.http.plain import PlainHistory
from service.http.schemas import (
    BatchRequest,
    CandidateColumns,
    HistoryEntry,
    PlainCandidate,
    RerankRequest,
    candidates_form,
)
from service.ranking.request import RankingRequest, RequestedConstraints

T = TypeVar("T", bound=BaseModel)
Groups = dict[str, list[str | None]]  # attribute -> a value per candidate

MAX_ERRORS = 20  # broken fields that one response names
MSGPACK = "application/msgpack"
MSGPACK_NAMES = (MSGPACK, "application/x-msgpack", "application/vnd.msgpack")
# ormsgpack stops at the end of a value; wrapped in a pair with this marker, trailing bytes show.
PAIR, END = b"\x92", ormsgpack.packb("the end of a body")


def decode(content: bytes, headers: Mapping[str, str]) -> Any:
    """Decode a body: MessagePack if its Content-Type says so, else JSON.

    Raises BadRequest, UnsupportedMedia for a compressed body, or InvalidRequest for a JSON key with
    two values.
    """
    refuse_compressed(headers)
    if is_msgpack(headers.get("content-type")):
        try:
            payload, end = decode_value(PAIR + content + END)
        except ormsgpack.MsgpackDecodeError as error:
            raise _undecodable("MessagePack", str(error), content) from None
        if end != ormsgpack.unpackb(END):
            raise _undecodable("MessagePack", "bytes follow the end of the value", content)
        return payload
    try:
        payload = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        rule = "JSON in UTF-8, where NaN and Infinity are no numbers"
        raise _undecodable(rule, str(error) if content else "it is empty", content) from None
    refuse_repeated_keys(content, payload)
    return payload


def refuse_compressed(headers: Mapping[str, str]) -> None:
    """Raise UnsupportedMedia for the headers of a compressed body."""
    encoding = headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        error = FieldError("header Content-Encoding", "absent or identity", encoding)
        detail = f"header Content-Encoding: send the body uncompressed, got {encoding[:50]!r}"
        raise UnsupportedMedia(detail, [error])


def decode_value(content: bytes) -> Any:
    """Decode MessagePack; integers may be keys, as ids are. Raises ormsgpack.MsgpackDecodeError."""
    try:
        return ormsgpack.unpackb(content)
    except ormsgpack.MsgpackDecodeError:  # reading other keys from the start is slower
        return ormsgpack.unpackb(content, option=ormsgpack.OPT_NON_STR_KEYS)


def is_msgpack(content_type: str | None) -> bool:
    """Tell if a Content-Type header names MessagePack."""
    if content_type is None:
        return False
    return content_type.partition(";")[0].strip().lower() in MSGPACK_NAMES


def _undecodable(rule: str, reason: str, content: bytes) -> BadRequest:
    value = content[:100].decode("utf-8", "replace")
    detail = f"body: not {rule.split(',')[0]} ({reason})"
    return BadRequest(detail, [FieldError("body", rule, value)])


@dataclass(slots=True)  # not frozen, as in service.ranking.decision
class Limits:
    """Lengths that are checked before a body is validated field by field."""

    candidates: int
    history: int
    lists: int


def parse_single(payload: Any, limits: Limits) -> Sequence[RerankRequest]:
    """Return the one list of a decoded body. Raises InvalidRequest."""
    refuse_long(payload, "", limits)
    return [validate(RerankRequest, payload)]


def parse_batch(payload: Any, limits: Limits) -> Sequence[RerankRequest]:
    """Return the lists of a decoded batch body. Raises InvalidRequest."""
    entries = payload.get("requests") if isinstance(payload, dict) else None
    if isinstance(entries, list):
        if len(entries) > limits.lists:
            rule = f"at most {limits.lists} lists"
            raise InvalidRequest.of(FieldError("requests", rule, len(entries)))
        for index, entry in enumerate(entries):
            refuse_long(entry, list_path(index), limits)
    return validate(BatchRequest, payload).requests


def list_path(index: int) -> str:
    """Return the prefix of field paths for one list of a batch call."""
    return f"requests[{index}]."


def refuse_long(payload: Any, path: str, limits: Limits) -> None:
    """Check the lengths of one list before it is validated field by field.

    Ten thousand entries deserve one error instead of a slow validation. Raises InvalidRequest.
    """
    if not isinstance(payload, dict):
        return
    candidates = payload.get("candidates")
    ids, suffix = candidates, ""
    if isinstance(candidates, dict):
        ids, suffix = candidates.get("id"), ".id"
    if isinstance(ids, list) and len(ids) > limits.candidates:
        field, rule = f"{path}candidates{suffix}", f"at most {limits.candidates} candidates"
        raise InvalidRequest.of(FieldError(field, rule, len(ids)))
    user = payload.get("user")
    history = user.get("history") if isinstance(user, dict) else None
    if isinstance(history, list) and len(history) > limits.history:
        rule = f"at most {limits.history} entries"
        raise InvalidRequest.of(FieldError(f"{path}user.history", rule, len(history)))


def ranking_request(
    body: RerankRequest, path: str, request_id: str, deadline: float
) -> RankingRequest:
    """Build the re-ranker's input from a validated body. Raises InvalidRequest.

    Args:
        path: prefix of field paths in errors, such as "requests[3].".
        request_id: used if the body has none.
        deadline: time of time.monotonic().
    """
    inputs, groups = featuriser_input(body, path)
    reasoning, temperatures, sampling = body.reasoning, body.temperatures, body.sampling
    constraints = None
    if body.constraints is not None:
        stated = body.constraints
        limit = next(iter((stated.max_per_group or {}).items()), None)
        constraints = RequestedConstraints(stated.pinned or {}, stated.blocked or (), limit, groups)
    return RankingRequest(
        inputs=inputs,
        request_id=body.request_id or request_id,
        path=path,
        deadline=deadline,
        form=candidates_form(body.candidates),
        model=body.model,
        slate_size=body.slate_size,
        budget=reasoning.budget if reasoning else None,
        entropy_threshold=reasoning.entropy_threshold if reasoning else None,
        reason_temperature=temperatures.reason if temperatures else None,
        recommend_temperature=temperatures.recommend if temperatures else None,
        sampling=SlateSampling(sampling.slates, sampling.seed) if sampling else None,
        constraints=constraints,
        intent=requested_intent(body, path),
        priority=body.priority or "interactive",
        explain=bool(body.explain),
        explain_steps=body.explain == "steps",
    )


def featuriser_input(body: RerankRequest, path: str) -> tuple[CandidateList, Groups]:
    """Return the featuriser's input, and the candidate groups that the constraints may name.

    Args:
        path: prefix of field paths in errors, such as "requests[3].".

    Raises InvalidRequest.
    """
    candidates, user = body.candidates, body.user
    features: Sequence[dict[str, Any]] = ()
    columns: dict[str, Column] = {}
    scores: Sequence[float | None] = ()
    groups: Groups = {}
    if isinstance(candidates, CandidateColumns):
        ids = candidates.id
        uneven = candidates.uneven()
        if uneven is not None:
            rule = f"as long as id, which has {len(ids)}"
            raise InvalidRequest.of(FieldError(f"{path}candidates.{uneven[0]}", rule, uneven[1]))
        scores = unpacked_numbers(candidates.score or (), f"{path}candidates.score")
        groups = without_nulls(candidates.groups)
        columns = {
            name: unpacked(values, f"{path}candidates.features.{name}")
            for name, values in (candidates.features or {}).items()
            if values is not None
        }
    elif candidates_form(candidates) == "ids":
        ids = cast("list[str]", candidates)
    else:
        records = cast("list[PlainCandidate]", candidates)
        ids = [record.id for record in records]
        scores = [record.score for record in records]
        if any(record.features for record in records):
            features = [record.features or {} for record in records]
        for name in (body.constraints.max_per_group or ()) if body.constraints else ():
            if any(record.groups and name in record.groups for record in records):
                groups[name] = [
                    record.groups.get(name) if record.groups else None for record in records
                ]
    request = CandidateList(
        ids=ids,
        scores=scores,
        features=features,
        user_id=user.id if user else None,
        user=with_arrays(user.features, f"{path}user.features") if user else {},
        history=labelled(user.history) if user and user.history else (),
        history_features=features_of(user.history, path) if user and user.history else (),
        context=with_arrays(body.context, f"{path}context"),
        columns=columns,
    )
    return request, groups


def labelled(history: list[Any]) -> PlainHistory:
    """Return id and label of each entry of a validated history; without a label it is a like."""
    if is_plain(history):
        return history
    return [
        (entry, 1.0)
        if isinstance(entry, str)
        else (entry.id, 1.0 if (label := entry.label) is None else label)
        for entry in history
    ]


def features_of(history: list[Any], path: str) -> Sequence[Mapping[str, Any]]:
    """Return the features of each history entry, or none at all; packed vectors as arrays.

    Raises InvalidRequest.
    """
    if is_plain(history):
        return ()
    records = [entry.features for entry in history if isinstance(entry, HistoryEntry)]
    if not any(records):
        return ()
    return [
        {}
        if isinstance(entry, str)
        else with_arrays(entry.features, f"{path}user.history[{index}].features")
        for index, entry in enumerate(history)
    ]


def is_plain(history: list[Any]) -> bool:
    """True for a history of pairs of id and label; it has at least one entry."""
    return type(history[0]) is tuple


def with_arrays(features: Mapping[str, Any] | None, path: str) -> Mapping[str, Any]:
    """Return features of a user or context, packed vectors as arrays. Raises InvalidRequest."""
    if not features or not any(type(value) is dict for value in features.values()):
        return features or {}
    return {
        name: unpacked(validate(PackedNumbers, value, f"{path}.{name}"), f"{path}.{name}")
        if type(value) is dict
        else value
        for name, value in features.items()
    }


def validate(model: type[T], payload: Any, path: str = "") -> T:
    """Validate a decoded body, or the field at `path`.

    Raises InvalidRequest naming every broken field, at most 20.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        errors = [
            FieldError(
                path_of((path, *entry["loc"]) if path else entry["loc"]),
                rule_of(entry["type"], entry["loc"], entry["msg"], entry.get("ctx", {})),
                None if entry["type"] == "missing" else entry["input"],
            )
            for entry in error.errors(include_url=False)[:MAX_ERRORS]
        ]
        raise InvalidRequest.of(*errors) from None


LABEL_SCALE = "a label of the log scaled to 0..1 by the label range of GET /info"
RULES = {
    "extra_forbidden": "unknown field",
    "missing": "required",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "a string",
    "bytes_type": "bytes, which only MessagePack has",
    "int_type": "an integer",
    "float_type": "a number",
    "too_short": "at least one entry",
    "invalid_key": "a string as the key",
    ID_ERROR: ID_RULE,
}


def rule_of(
    kind: str, location: Sequence[str | int], message: str, context: Mapping[str, Any]
) -> str:
    """Return the broken rule in the API's own terms, else in pydantic's."""
    if kind == ID_ERROR and location[-1] == ID:
        return f"{ID_RULE}, or an object with id and label"
    if kind == ID_ERROR and IDS in location:
        return f"{ID_RULE}, or every candidate an object with id"
    if kind.startswith("model_") and RECORDS in location[-2:-1]:
        return "an object with id, or every candidate an id alone"
    if kind.startswith("model_") and location[-1:] == (TERM,):
        return "an object, or a list of them"
    if kind == "list_type" and location[-1:] == (VALUES,):
        return "a list, or an object with dtype, shape and data"
    if kind == "too_long":
        limit = context["max_length"]
        return "at most one entry" if limit == 1 else f"at most {limit} entries"
    if location[-1:] == ("label",) and kind == "less_than_equal":
        return f"{message}: {LABEL_SCALE}"
    return RULES.get(kind, message)


def path_of(location: Sequence[str | int]) -> str:
    """Join a pydantic location: ("candidates", "<records>", 3, "id") -> candidates[3].id"""
    path = ""
    for part in location:
        if part in TAGS or part == "[key]":  # pydantic's own; the body has no such field
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"
