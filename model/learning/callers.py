"""The requests that different callers would send for one logged list."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from model.data.dataset import Impression
from service.engine.features.schema import LabelScale


def shuffled(impression: Impression, seed: int = 0) -> Impression:
    """Return the list in random order, so that its order carries no information.

    The shuffle depends on the request id alone, so that every evaluation ranks the same lists.
    """
    draw = np.random.default_rng([seed, *impression.request_id.encode()])
    order = draw.permutation(len(impression.labels)).tolist()
    inline = bool(impression.request.features)
    request = dataclasses.replace(
        impression.request,
        ids=[impression.request.ids[i] for i in order],
        scores=[impression.request.scores[i] for i in order],
        features=[impression.request.features[i] for i in order] if inline else (),
    )
    return dataclasses.replace(
        impression, request=request, labels=tuple(impression.labels[i] for i in order)
    )


def without(impression: Impression, features: Collection[str]) -> Impression:
    """Return the list as a caller sends it that has no value of these features."""
    entries = [
        {name: value for name, value in entry.items() if name not in features}
        for entry in impression.request.features
    ]
    request = dataclasses.replace(impression.request, features=entries if any(entries) else ())
    return dataclasses.replace(impression, request=request)


def sent_values(impression: Impression) -> dict[str, None]:
    """Return the names of all that this request sends beside the ids of its candidates, in order.

    Features are in backquotes; other names are fields of a request.
    """
    request = impression.request
    fields = {
        "`score`": any(score is not None for score in request.scores),
        "user id": request.user_id is not None,
        "history": bool(request.history),
    }
    candidates = {name for entry in request.features for name in entry}
    owners = (sorted(candidates), request.user, request.context)
    names = [name for name, is_sent in fields.items() if is_sent]
    return dict.fromkeys([*names, *(f"`{name}`" for owner in owners for name in owner)])


def carries(impression: Impression, features: Collection[str]) -> bool:
    """True if a candidate of the list has an inline value of one of these features."""
    return any(name in entry for entry in impression.request.features for name in features)


def is_rankable(impression: Impression, scale: LabelScale) -> bool:
    """True if two candidates have different gains; otherwise every order is equally good."""
    gains = scale.gain(impression.labels)
    return bool(gains.min() < gains.max())
