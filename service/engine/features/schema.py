"""The feature schema: the declarations of a data set and the values that fitting adds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.features.durations import DURATION, is_duration
from service.engine.features.event_types import DEFAULT_EVENTS, EventType, parse_event_types
from service.engine.features.passed_over import DEFAULT, PassedOver
from service.engine.features.schema_rules import SchemaError, is_finite, refuse_unknown

OWNERS = ("item", "user", "context", "candidate")
TOKEN_KINDS = ("identifier", "category", "categories")
NUMBER_KINDS = ("number", "statistic")
KINDS = (*TOKEN_KINDS, *NUMBER_KINDS, "vector")
TRANSFORMS = ("none", "log")
GAINS = ("binary", "linear", "exponential")
GRADES = 31  # widest range of labels whose gain may be exponential, as in LightGBM
WHOLE, FINITE, POSITIVE = "a whole number above 0", "a finite number", "a finite number above 0"
FIELDS = {"name", "features", "history", "label", "events", "passed_over"}
TEXT, TEXTS = "a text", "a list of texts"


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and set(map(type, value)) <= {str}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and is_finite(value, above=0)


@dataclass(frozen=True)
class Feature:
    """One declared feature; fitting adds `mean`, `std` and `vocabulary`.

    of            its owner: item, user, context or candidate
    kind          identifier, category: one token; categories: up to `width` tokens;
                  number; statistic: a number computed from the train split; vector: `width` numbers
    transform     none, or log for log(1 + max(x, 0)); then (x - mean) / std
    default       replaces a missing value (else: the train mean, no token, a zero vector)
    required      a request without it is refused (of user, context or candidate)
    min_count     a value seen less often in train falls to the out-of-vocabulary token: in rows
                  (item_id, candidate), lists (user_id, context), or among the items or users
    relative      adds z-score, rank and distance from the best within the candidate list
    input         false, of a vector: feeds history kernels only, not the network
    bucket        of a statistic over time: the width of its time buckets, such as 6h
    half_life     of a statistic over time: a show counts half after it, such as 3d
    buckets       of an identifier or category: values share so many tokens by their hash
                  (features.hashing), so that none is unknown and no vocabulary is kept
    """

    name: str
    of: str
    kind: str
    transform: str = "none"
    default: Any = None
    required: bool = False
    min_count: int = 1
    width: int = 1
    relative: bool = False
    input: bool = True
    prior_strength: float = 10.0
    bucket: str | None = None
    half_life: str | None = None
    buckets: int | None = None
    mean: float = 0.0
    std: float = 1.0
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        numeric = self.kind in NUMBER_KINDS
        for name, rule, valid in (
            ("name", TEXT, isinstance(self.name, str) and self.name != ""),
            *(
                (name, f"one of {', '.join(allowed)}", getattr(self, name) in allowed)
                for name, allowed in (("of", OWNERS), ("kind", KINDS), ("transform", TRANSFORMS))
            ),
            *(
                (name, "true or false", isinstance(getattr(self, name), bool))
                for name in ("required", "relative", "input")
            ),
            ("min_count", WHOLE, _is_whole(self.min_count)),
            ("width", WHOLE, _is_whole(self.width)),
            ("default", FINITE, not numeric or self.default is None or is_finite(self.default)),
            *(
                (name, POSITIVE, is_finite(getattr(self, name), 0))
                for name in ("prior_strength", "std")
            ),
            ("mean", FINITE, is_finite(self.mean)),
            ("vocabulary", TEXTS, _is_texts(self.vocabulary)),
            *(
                (name, DURATION, getattr(self, name) is None or is_duration(getattr(self, name)))
                for name in ("bucket", "half_life")
            ),
        ):
            if not valid:
                value = getattr(self, name)
                raise SchemaError(f"features.{self.name}.{name}: must be {rule}, got {value!r}")
        if self.required and self.of == "item":
            raise SchemaError(
                f"features.{self.name}.required: must be false for a feature of item, got true"
            )
        if self.relative and not numeric:
            raise SchemaError(
                f"features.{self.name}.relative: must be false for a {self.kind}, got true"
            )
        if self.kind == "statistic" and self.of != "item":
            raise SchemaError(
                f"features.{self.name}.of: must be item for a statistic, got {self.of!r}"
            )
        for name in ("bucket", "half_life"):
            if getattr(self, name) is not None and self.kind != "statistic":
                rule = f"must be absent from a {self.kind}, got {getattr(self, name)!r}"
                raise SchemaError(f"features.{self.name}.{name}: {rule}")
        if self.buckets is not None:
            self._check_buckets()
        if not self.input and (self.kind != "vector" or self.of != "item"):
            kind = f"{self.kind} of {self.of}" if self.kind == "vector" else self.kind
            raise SchemaError(f"features.{self.name}.input: must be true for a {kind}, got false")

    def _check_buckets(self) -> None:
        for name, rule, valid in (
            ("buckets", f"absent from a {self.kind}", self.kind in ("identifier", "category")),
            ("buckets", WHOLE, _is_whole(self.buckets)),
            ("min_count", "1 with buckets", self.min_count == 1),
            ("vocabulary", "empty with buckets", not self.vocabulary),
        ):
            if not valid:
                value = getattr(self, name)
                raise SchemaError(f"features.{self.name}.{name}: must be {rule}, got {value!r}")

    @property
    def slots(self) -> int:
        """Number of token columns."""
        return self.width if self.kind == "categories" else int(self.kind in TOKEN_KINDS)

    @property
    def values(self) -> int:
        """Number of tokens of values, without that of unknown values."""
        return len(self.vocabulary) if self.buckets is None else self.buckets

    def transform_value(self, value: float) -> float:
        """Return the value after `transform`, before standardising."""
        return math.log1p(max(value, 0.0)) if self.transform == "log" else value


@dataclass(frozen=True)
class History:
    """The use of `user.history`: its last `limit` entries, compared by one kernel per item feature.

    `rate` names the statistic that is the log-odds of the probability p of a like; an entry then
    counts by its surprise, label - p, so that a like of a popular item counts little. With a
    declared gain of labels, p and surprise are of the gain.
    """

    limit: int = 128
    kernels: tuple[str, ...] = ()
    rate: str | None = None

    def __post_init__(self) -> None:
        # 0 would mean no entry in training, but every entry when serving, by the slice [-0:].
        if not _is_whole(self.limit):
            raise SchemaError(f"history.limit: must be {WHOLE}, got {self.limit!r}")
        if not _is_texts(self.kernels):
            raise SchemaError(f"history.kernels: must be {TEXTS}, got {self.kernels!r}")
        if not isinstance(self.rate, str | None):
            raise SchemaError(f"history.rate: must be {TEXT}, got {self.rate!r}")


@dataclass(frozen=True)
class LabelScale:
    """The meaning of a label. Methods take canonical labels: 0..1, linear in `range`.

    range       smallest and largest label of the log, low and high
    gain_form   gain of a label y of the log, 0..1:
                    binary       1 for a positive, else 0
                    linear       (y - low) / (high - low)
                    exponential  (2^(y - low) - 1) / (2^(high - low) - 1)
                None: binary, and `target` is the label itself
    positive    smallest label of the log that is a positive; None: one above the middle of `range`
    """

    range: tuple[float, float] = (0.0, 1.0)
    gain_form: str | None = None
    positive: float | None = None

    def __post_init__(self) -> None:
        pair = isinstance(self.range, (list, tuple)) and len(self.range) == 2
        if not (pair and all(map(is_finite, self.range))) or self.range[0] >= self.range[1]:
            rule = "must be two finite numbers, low < high"
            raise SchemaError(f"label.range: {rule}, got {self.range!r}")
        low, high = map(float, self.range)
        object.__setattr__(self, "range", (low, high))
        if self.gain_form not in (None, *GAINS):
            raise SchemaError(
                f"label.gain: must be one of {', '.join(GAINS)}, got {self.gain_form!r}"
            )
        if self.gain_form == "exponential" and high - low > GRADES:
            raise SchemaError(
                f"label.range: must span at most {GRADES} for an exponential gain, got "
                f"[{low:g}, {high:g}]; declare gain: linear or a smaller range"
            )
        if self.positive is not None:
            if not is_finite(self.positive, above=low) or self.positive > high:
                rule = f"must be a number above {low:g} and at most {high:g}"
                raise SchemaError(f"label.positive: {rule}, got {self.positive!r}")
            object.__setattr__(self, "positive", float(self.positive))
            object.__setattr__(self, "gain_form", self.gain_form or "binary")

    @classmethod
    def from_dict(cls, payload: Any) -> LabelScale:
        """Build the scale from the entry `label` of a schema. Raises SchemaError."""
        refuse_unknown(payload, {"range", "gain", "positive"}, "label")
        return cls(payload.get("range", (0.0, 1.0)), payload.get("gain"), payload.get("positive"))

    def to_dict(self) -> dict[str, Any]:
        """Return the inverse of from_dict, without fields that are None."""
        fields = {"range": list(self.range), "gain": self.gain_form, "positive": self.positive}
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def is_graded(self) -> bool:
        """True if gains have more than two values."""
        return self.gain_form in ("linear", "exponential")

    @property
    def order(self) -> str:
        """Return the description of the labels that give a list a better and a worse order."""
        return "two different gains" if self.is_graded else "a positive and a negative"

    @property
    def span(self) -> float:
        """Return high - low."""
        return self.range[1] - self.range[0]

    @property
    def threshold(self) -> float | None:
        """Return `positive` as a canonical label above 0, a float32 as canonical labels are."""
        if self.positive is None:
            return None
        threshold = np.float32((self.positive - self.range[0]) / self.span)
        return float(max(threshold, np.finfo(np.float32).tiny))  # 0 is padding too

    def is_positive(self, labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return true for positives, of the same shape."""
        rounded = np.asarray(labels, np.float32)
        threshold = self.threshold
        return np.asarray(rounded > 0.5 if threshold is None else rounded >= threshold)

    def gain(self, labels: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the gain 0..1 of each label, of the same shape."""
        if not self.is_graded:
            return self.is_positive(labels).astype(np.float32)
        if self.gain_form == "linear":
            return np.asarray(labels, np.float32)
        powers = np.exp2(np.asarray(labels, np.float64) * self.span) - 1.0
        return np.asarray(powers / (2.0**self.span - 1.0), np.float32)

    def target(self, labels: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the value 0..1 that the evaluator predicts and that history compares to rates.

        It is the gain. Where neither `gain` nor `positive` was declared, it is the label itself.
        """
        return np.asarray(labels, np.float32) if self.gain_form is None else self.gain(labels)


BINARY = LabelScale()  # of a schema that declares none


@dataclass(frozen=True)
class Schema:
    """The declared features of one data set, in the order of their columns.

    events: types of events by name; without a declaration, like and pass. passed_over: the
    displayed items that count as passed over.
    """

    name: str
    features: tuple[Feature, ...]
    history: History = History()
    label: LabelScale = BINARY
    events: Mapping[str, EventType] = field(default_factory=lambda: DEFAULT_EVENTS, hash=False)
    passed_over: PassedOver = DEFAULT

    def __post_init__(self) -> None:
        if not isinstance(self.name, str | int | float):  # YAML reads 2026 as a number
            raise SchemaError(f"schema.name: must be {TEXT}, got {self.name!r}")
        names = [feature.name for feature in self.features]
        for name in names:
            if names.count(name) > 1:
                raise SchemaError(
                    f"features.{name}: must be declared once, got {names.count(name)} times"
                )
        by_name = {feature.name: feature for feature in self.features}
        for name in self.history.kernels:
            if name not in by_name or by_name[name].kind not in ("categories", "vector"):
                raise SchemaError(f"history.kernels: must name categories or vectors, got {name!r}")
            if by_name[name].of != "item":
                raise SchemaError(f"history.kernels: must name features of item, got {name!r}")
        rate = self.history.rate
        if rate is not None and (rate not in by_name or by_name[rate].kind != "statistic"):
            raise SchemaError(f"history.rate: must name a statistic, got {rate!r}")

    @classmethod
    def from_dict(cls, payload: Any) -> Schema:
        """Build a schema from parsed YAML or JSON. Raises SchemaError for any other form."""
        refuse_unknown(payload, FIELDS, "schema")
        if "name" not in payload:
            raise SchemaError("schema.name: required")
        entries, history, label = (
            empty if payload.get(field) is None else payload[field]
            for field, empty in (("features", []), ("history", {}), ("label", {}))
        )
        if not isinstance(entries, list | tuple):
            raise SchemaError(f"features: must be a list of features, got {entries!r}")
        refuse_unknown(history, {item.name for item in dataclasses.fields(History)}, "history")
        features = []
        for index, entry in enumerate(entries):
            fields = {item.name for item in dataclasses.fields(Feature)}
            refuse_unknown(entry, fields, f"features[{index}]")
            for required in ("name", "of", "kind"):
                if required not in entry:
                    raise SchemaError(f"features[{index}].{required}: required")
            features.append(Feature(**_with_tuple(entry, "vocabulary")))
        return cls(
            name=payload["name"],
            features=tuple(features),
            history=History(**_with_tuple(history, "kernels")),
            label=LabelScale.from_dict(label),
            events=parse_event_types(payload.get("events")),
            passed_over=PassedOver.from_dict(payload.get("passed_over")),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the inverse of from_dict, without the fields that have their default value."""
        defaults = {item.name: item.default for item in dataclasses.fields(Feature)}
        features = [
            {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in dataclasses.asdict(feature).items()
                if value != defaults[key]
            }
            for feature in self.features
        ]
        history = dataclasses.asdict(self.history)
        events = {name: dataclasses.asdict(event) for name, event in self.events.items()}
        return {
            "name": self.name,
            "label": self.label.to_dict(),
            "history": {**history, "kernels": list(self.history.kernels)},
            "features": features,
            **({} if self.events == DEFAULT_EVENTS else {"events": events}),
            **(
                {}
                if self.passed_over == DEFAULT
                else {"passed_over": dataclasses.asdict(self.passed_over)}
            ),
        }


def _with_tuple(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return fields with the list `name` as a tuple; anything else is refused by its class."""
    listed = fields.get(name, ())
    return {**fields, name: tuple(listed) if isinstance(listed, list) else listed}
