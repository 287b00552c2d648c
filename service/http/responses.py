"""Response bodies: slates and server state as JSON or MessagePack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import fastapi
import numpy as np
import onnxruntime
import orjson
import ormsgpack
from starlette.responses import Response

from service.engine.features.ids import SentId
from service.engine.features.stored_items import StoredList
from service.engine.rows import Row, Slate
from service.engine.steps import MASKED_LOGIT
from service.http.big_integers import INTEGERS, encodable
from service.http.explained_steps import add_steps
from service.http.negotiation import weight_of, weights
from service.http.parsing import MSGPACK, MSGPACK_NAMES, is_msgpack
from service.models.fleet import Fleet
from service.ranking.decision import Decision, StageTimes
from service.ranking.intent import IntentEffect
from service.ranking.stored_user import StateUse
from service.settings import Settings
from service.state.store import EntityStore

JSON_NAMES = ("application/json",)
ALTERNATIVES = 3  # entries of an explanation


def to_json(content: Any) -> bytes:
    """Encode a response, with ids as they were sent."""
    return orjson.dumps(content, default=id_in_json, option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def id_in_json(value: object) -> float | str | orjson.Fragment:
    """Return an id as it was sent. Raises TypeError for all else, as encoders expect."""
    if isinstance(value, SentId):
        return value.sent if isinstance(value.sent, str) else encodable(value.sent)
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def id_in_msgpack(value: object) -> float | str:
    """Return an id as it was sent, or as text beyond 64 bits. Raises TypeError for all else."""
    if isinstance(value, SentId):
        sent = value.sent
        return sent if not isinstance(sent, int) or sent in INTEGERS else str(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def to_msgpack(content: Any) -> bytes:
    """Encode a response as MessagePack, with ids as they were sent."""
    return ormsgpack.packb(
        content, default=id_in_msgpack, option=ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    )


class JsonResponse(Response):
    """JSON by orjson, which is several times faster than the standard library."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


class MsgpackResponse(Response):
    """MessagePack, about two thirds of the size of the same JSON."""

    media_type = MSGPACK

    def render(self, content: Any) -> bytes:
        return to_msgpack(content)


def response_class(headers: Mapping[str, str]) -> type[Response]:
    """Choose JSON or MessagePack by the weights of `Accept`, else by the request's content type."""
    accept = headers.get("accept", "*/*")
    of_body = MsgpackResponse if is_msgpack(headers.get("content-type")) else JsonResponse
    if accept == "*/*":
        return of_body
    ranges = weights(accept)
    msgpack, json = weight_of(MSGPACK_NAMES, ranges), weight_of(JSON_NAMES, ranges)
    if msgpack != json:
        return MsgpackResponse if msgpack > json else JsonResponse
    if msgpack and not ranges.keys().isdisjoint(MSGPACK_NAMES):
        return MsgpackResponse
    return of_body if msgpack else JsonResponse


Encoder = tuple[bytes, Callable[[Any], bytes]]
ENCODERS: Mapping[type[Response], Encoder] = {
    JsonResponse: (b"application/json", to_json),
    MsgpackResponse: (MSGPACK.encode(), to_msgpack),
}


def encoder_for(headers: Mapping[str, str]) -> Encoder:
    """Return the media type of the response to a request, and the function that encodes it."""
    return ENCODERS[response_class(headers)]


def decision_entries(decision: Decision) -> list[dict[str, Any]]:
    """Render the positions of a decision, ranked or not."""
    row, effect = decision.row, decision.effect
    if decision.slate is not None:
        entries = slate_entries(decision.ids, decision.slate, row, effect)
    else:
        entries = fallback_entries(decision.ids, decision.fallback, row.explain, effect)
    if decision.explain_steps:
        add_steps(entries, decision)
    return entries


def decision_content(
    decision: Decision, entries: list[dict[str, Any]], times: StageTimes
) -> dict[str, Any]:
    """Render the response to one list."""
    row, utility, reasons = decision.row, decision.utility, decision.reasons
    content = {
        "request_id": decision.request_id,
        "model": {
            "name": decision.model, "version": decision.version, "variant": decision.variant,
        },
        "slate": entries,
        "reasoning": {
            "steps_used": decision.steps,
            "budget": decision.budget * row.slate_size,
            "budget_per_position": decision.budget,
            "budget_asked": row.budget,
            "entropy_threshold": round(row.entropy_threshold, 6),
        },
        "utility": None if utility is None else round(utility, 6),
        "unknown_candidates": decision.unknown,
        "latency_ms": latency_in_ms(times),
        "degraded": {"reason": reasons[0], "reasons": reasons} if reasons else None,
    }  # fmt: skip
    if row.explain:
        if decision.state is not None:
            content["state"] = state_used(decision.state, len(decision.ids))
        if decision.explain_steps and decision.trace is None:
            content["steps_missing"] = decision.steps_missing
    return content


def latency_in_ms(times: StageTimes) -> dict[str, float]:
    """Render the milliseconds of the stages, in their order."""
    stages = {"total": round(1e3 * times.total, 3), "parse": round(1e3 * times.parse, 3)}
    if times.state is not None:
        stages["state"] = round(1e3 * times.state, 3)
    stages["features"] = round(1e3 * times.features, 3)
    stages["queue"] = round(1e3 * times.queue, 3)
    stages["inference"] = round(1e3 * times.inference, 3)
    stages["respond"] = round(1e3 * times.respond, 3)
    return stages


def state_used(use: StateUse, candidates: int) -> dict[str, Any]:
    """Render the part of the entity store in one list of so many candidates."""
    return {
        "user": use.status,
        "history": use.history,
        "features": use.features,
        "ignored": use.ignored,
        "age_s": None if use.age_s is None else round(use.age_s, 3),
        "items": None if use.items is None else items_used(use.items, candidates),
    }


def items_used(items: StoredList, candidates: int) -> dict[str, Any]:
    """Render the part of stored items in a list of so many candidates."""
    oldest, newest = items.ages_s() or (None, None)
    return {
        "hits": len(items.entries),
        "misses": candidates - len(items.entries),
        "features": items.feature_names(),
        "counters": list(items.statistics),
        "ignored": items.ignored_names(),
        "clipped": items.clipped,
        "oldest_age_s": oldest,
        "newest_age_s": newest,
    }


def batch_content(responses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Render the response to a batch call."""
    return {"responses": responses}


def slowest_latency(responses: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return `latency_ms` of the list with the largest total."""
    slowest: dict[str, float] = responses[0]["latency_ms"]
    for response in responses[1:]:
        if response["latency_ms"]["total"] > slowest["total"]:
            slowest = response["latency_ms"]
    return slowest


def server_timing(latency_ms: Mapping[str, float]) -> str:
    """Render the Server-Timing header."""
    state = f"state;dur={latency_ms['state']}, " if "state" in latency_ms else ""
    return (
        f"parse;dur={latency_ms['parse']}, {state}features;dur={latency_ms['features']}, "
        f"queue;dur={latency_ms['queue']}, inference;dur={latency_ms['inference']}, "
        f"respond;dur={latency_ms['respond']}, total;dur={latency_ms['total']}"
    )


def fallback_entries(
    ids: Sequence[str], fallback: Sequence[int], explain: bool, effect: IntentEffect | None
) -> list[dict[str, Any]]:
    """Render a degraded response's positions, which hold no figures of the model."""
    entries: list[dict[str, Any]] = [
        {
            "id": ids[index], "position": position, "initial_position": index,
            "logprob": None, "entropy": None, "entropy_after": None, "reasoning_steps": 0,
        }
        for position, index in enumerate(fallback)
    ]  # fmt: skip
    if explain:
        for entry in entries:
            moved = entry["initial_position"] - entry["position"]
            entry["explanation"] = {
                "probability": None,
                "alternatives": [],
                "moved": moved,
                **intent_figures(ids, effect, entry["position"]),
            }
    return entries


def intent_figures(
    ids: Sequence[str], effect: IntentEffect | None, position: int
) -> dict[str, Any]:
    """Render what boosts and diversity did at a position, null without an intent."""
    if effect is None:
        return {"boost": None, "diversity": None, "instead_of": None}
    boost, diversity = effect.boost[position], effect.diversity[position]
    other = effect.instead_of[position]
    return {
        "boost": None if boost is None else round(boost, 6),
        "diversity": None if diversity is None else round(diversity, 6),
        "instead_of": None if other is None else ids[other],
    }


def slate_entries(
    ids: Sequence[str], slate: Slate, row: Row, effect: IntentEffect | None = None
) -> list[dict[str, Any]]:
    """Render the positions of a slate.

    Log-probability and entropies of a pinned position are null: the model chose nothing there.
    """
    entries = []
    figures = np.array([slate.logprob, slate.entropy_before, slate.entropy_after], np.float64)
    logprobs, befores, afters = figures.round(6).tolist()
    logits = slate.logits if row.explain else None
    for position, (index, logprob, before, after, steps, pinned) in enumerate(
        zip(
            slate.indices.tolist(), logprobs, befores, afters, slate.steps.tolist(),
            row.constraints.pinned.tolist(), strict=True,
        )
    ):  # fmt: skip
        chosen = pinned < 0
        entry = {
            "id": ids[index],
            "position": position,
            "initial_position": index,
            "logprob": logprob if chosen else None,
            "entropy": before if chosen else None,
            "entropy_after": after if chosen else None,
            "reasoning_steps": steps,
        }
        if logits is not None:
            entry["explanation"] = {
                "probability": round(math.exp(logprob), 6) if chosen else None,
                "alternatives": alternatives(ids, logits[position], index, row) if chosen else [],
                "moved": index - position,
                **intent_figures(ids, effect, position),
            }
        entries.append(entry)
    return entries


def alternatives(
    ids: Sequence[str], logits: np.ndarray[Any, Any], chosen: int, row: Row
) -> list[dict[str, Any]]:
    """Return the most probable candidates besides the chosen one that were still allowed.

    Args:
        logits: float32 [N], the logits of the position.
        chosen: index of the chosen candidate.
    """
    scaled = logits.astype(np.float64) / row.recommend_temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    order = [
        i for i in np.argsort(-logits, kind="stable")[: ALTERNATIVES + 1].tolist() if i != chosen
    ]
    return [
        {"id": ids[i], "probability": round(float(weights[i]), 6)}
        for i in order[:ALTERNATIVES]
        if logits[i] > MASKED_LOGIT
    ]


def server_info(
    fleet: Fleet, settings: Settings, store: EntityStore | None = None
) -> dict[str, Any]:
    """Render `GET /info`: the default model, its limits and offline metrics, and versions."""
    session = fleet.models[fleet.default_name()].active.session
    manifest, scale = session.manifest, session.featuriser.schema.label
    return {
        "model": {"name": manifest.name, "version": manifest.version},
        "models": {name: model.config.active for name, model in fleet.models.items()},
        "contract_version": manifest.contract_version,
        "provider": session.provider,
        "backend": {"name": session.backend.name, "detail": session.backend.detail},
        "slate_length": manifest.slate_length,
        "max_candidates": manifest.max_candidates,
        "intent": session.supports_intent,
        "budget_per_position": manifest.budget,
        "entropy_threshold": manifest.entropy_threshold,
        "temperatures": {
            "reason": manifest.reason_temperature,
            "recommend": manifest.recommend_temperature,
        },
        "as_of": manifest.as_of,
        "item_table": {
            "items": len(session.featuriser.items.ids),
            "bytes": manifest.table_bytes,
            "age_s": age_of(manifest.as_of),
        },
        "label": {
            "range": scale.range,
            "gain": scale.gain_form or "binary",
            "positive": scale.positive,
        },
        "offline_metrics": manifest.offline_metrics,
        "metrics_of": manifest.metrics_of,
        "gate": manifest.gate,
        "features": [
            {"name": f.name, "of": f.of, "kind": f.kind, "required": f.required, "width": f.width}
            for f in session.featuriser.schema.features
        ],
        "training_commit": manifest.training.get("commit"),
        "state": None if store is None else store.describe(),
        "threads": settings.threads,
        "max_batch_size": settings.max_batch_size,
        "max_lists_per_call": min(settings.max_lists_per_call, settings.max_queue),
        "versions": {"onnxruntime": onnxruntime.__version__, "fastapi": fastapi.__version__},
    }


def age_of(moment: str | None) -> int | None:
    """Return the seconds since a moment in ISO 8601.

    None without one, and for a bare number: that of a log whose times no calendar reaches.
    """
    if moment is None or moment.lstrip("-").isdecimal():
        return None
    return round((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def served_models(fleet: Fleet) -> dict[str, Any]:
    """Render the versions that each model serves, for the admin routes."""
    return {
        "models": {
            name: {
                "active": model.config.active,
                "canary": model.config.canary,
                "share": model.config.share,
                "shadow": model.config.shadow,
                "previous": model.previous.manifest.version if model.previous else None,
            }
            for name, model in sorted(fleet.models.items())
        }
    }
