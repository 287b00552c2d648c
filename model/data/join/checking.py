"""Compare joined lists with those that were served: featurised and decoded, both are the same."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.data.errors import DataError
from model.data.join.options import Part
from model.data.join.records import Span, read_fields, read_records
from model.data.join.served import served_lists
from model.data.join.tables import Served, served_statistics
from model.offline.errors import OfflineError
from model.offline.journal import Log
from model.offline.replay import check_skew, logged_logprob, replay
from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import encode_number
from service.engine.features.featuriser import Featuriser
from service.engine.features.schema import NUMBER_KINDS, Schema
from service.engine.session import Session
from service.journal.records import DecisionRecord

REPLAYED = 256  # lists of a part at most that are decoded again


@dataclass(frozen=True)
class ServedBundle:
    """A bundle that made decisions."""

    session: Session

    @classmethod
    def load(cls, directory: Path) -> ServedBundle:
        """Load a bundle. Raises BundleError or OSError."""
        return cls(Session.load(directory))

    @property
    def name(self) -> str:
        """NAME/VERSION of the bundle."""
        return f"{self.session.manifest.name}/{self.session.manifest.version}"

    @property
    def digest(self) -> str:
        """The SHA-256 of its manifest."""
        return self.session.digest

    @property
    def featuriser(self) -> Featuriser:
        """Its featuriser, with the item table."""
        return self.session.featuriser

    def served(self, record: DecisionRecord) -> Served:
        """Return the statistics that a decision of this bundle was made with.

        They are read off its arrays, so it does not matter if the request, a counter of the entity
        store or the item table gave them. Encoded again, each is the same float32.

        Raises FeatureError for a list that this bundle cannot have served.
        """
        names = served_statistics(self.featuriser.schema)
        values: dict[str, list[float]] = {}
        if names:
            numbers, _ = self.featuriser.transform(record.candidate_list())
            for name in names:
                feature = self.featuriser.layout.features[name]
                encoded = numbers[:, self.featuriser.column(name)].astype(np.float64)
                values[name] = (encoded * feature.std + feature.mean).tolist()
        return Served(values, self._rates(record))

    def _rates(self, record: DecisionRecord) -> list[float]:
        """Return the rate of each entry of the history; none without a schema that has one.

        In float32, as the expected labels of a history are computed.
        """
        features = self.featuriser.layout.features
        name = self.featuriser.schema.history.rate
        if name is None or not record.history:
            return []
        feature, items = features[name], self.featuriser.items
        of_items = [f.name for f in features.values() if f.of == "item" and f.kind in NUMBER_KINDS]
        rows = self.featuriser.find([item for item, _ in record.history])
        is_new = rows == len(items.ids)
        default = encode_number(feature, feature.default, name)
        encoded = np.full(len(rows), default, np.float32)
        encoded[~is_new] = items.numbers[rows[~is_new], of_items.index(name)]
        for place, of_entry in enumerate(record.history_features):
            if of_entry.get(name) is not None:
                encoded[place] = encode_number(feature, of_entry[name], name)
        rates: list[float] = (encoded * feature.std + feature.mean).tolist()
        return rates


def require_served(
    spans: Sequence[Span], start: int, end: int, model: str | None, bundle: ServedBundle
) -> None:
    """Raise DataError if decisions from start to before end, in ms, are of other bundles alone.

    A check by another bundle would compare nothing, and pass.

    model: name of the bundles whose decisions count, None for any.
    """
    others: Counter[str] = Counter()
    for _, fields in read_fields(spans, start, end, "check"):
        if fields.get("kind") == "decision":
            made_by = fields.get("bundle") or {}
            if made_by.get("digest") == bundle.digest:
                return
            if model in (None, made_by.get("name")):
                others[f"{made_by.get('name')}/{made_by.get('version')}"] += 1
    if others:
        made = ", ".join(f"{name} ({count:,})" for name, count in sorted(others.items()))
        rule = f"must be a bundle that made some of the lists, which are of {made}"
        raise DataError(Path("--check"), rule, value=bundle.name)


def check_part(
    spans: Sequence[Span], part: Part, files: Path, schema: Schema, bundle: ServedBundle
) -> Counter[str]:
    """Count the lists of a bundle in a part that were compared, and those that were replayed.

    Joined and journalled lists must have the same arrays. The featuriser of this process makes
    both, so a sample is decoded too: the logged choices must have the logged log-probabilities.

    Args:
        files: directory of the part's tables.

    Raises DataError if either fails: a model would train on other features than it served.
    """
    joined, lists, differing = dict(served_lists(files, schema)), 0, list[str]()
    draw, ranked, sample = random.Random(part.start), 0, list[DecisionRecord]()
    for record in read_records(spans, part.start, part.end, Counter(), f"check {part.name}"):
        if not isinstance(record, DecisionRecord) or record.bundle.digest != bundle.digest:
            continue
        again = joined.get(record.record)
        if again is None:
            continue
        lists += 1
        if _arrays(bundle.featuriser, again) != _arrays(bundle.featuriser, record.candidate_list()):
            differing.append(record.record)
        if record.logprob:  # else the list was not ranked
            ranked += 1
            if len(sample) < REPLAYED:
                sample.append(record)
            elif (place := draw.randrange(ranked)) < REPLAYED:
                sample[place] = record
    if differing:
        rule = f"{len(differing)} of {lists} joined lists give other arrays than journalled ones"
        raise DataError(files, rule, value=differing[0])
    _replay(sample, bundle, files)
    return Counter({"lists: compared with those served": lists, "lists: replayed": len(sample)})


def _replay(records: Sequence[DecisionRecord], bundle: ServedBundle, files: Path) -> None:
    """Raise DataError if replayed choices have other log-probabilities than the logged ones."""
    if not records:
        return
    log, session = Log([*records], []), bundle.session
    try:
        replayed = replay(session, log, session, "sampled", bundle.name).logprob
        check_skew(logged_logprob(records, replayed.shape[1]), replayed, bundle.name)
    except OfflineError as error:
        rule = f"code, bundle or temperatures are not those that served: {error}"
        raise DataError(files, rule) from None


def _arrays(featuriser: Featuriser, candidates: CandidateList) -> list[bytes]:
    return [array.tobytes() for array in featuriser.transform(candidates)]
