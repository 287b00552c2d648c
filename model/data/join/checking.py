"""Compare joined lists with those that were served: featurised, both give the same arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.data.errors import DataError
from model.data.join.options import Part
from model.data.join.records import Span, read_records
from model.data.join.served import served_lists
from model.data.join.tables import Served, served_statistics
from service.engine.contract import SEAL, Manifest
from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import encode_number
from service.engine.features.featuriser import Featuriser
from service.engine.features.loading import load_featuriser
from service.engine.features.schema import NUMBER_KINDS, Schema
from service.journal.records import DecisionRecord


@dataclass(frozen=True)
class ServedBundle:
    """The featuriser of a bundle that made decisions, and the SHA-256 of its manifest."""

    featuriser: Featuriser
    digest: str

    @classmethod
    def load(cls, directory: Path) -> ServedBundle:
        """Load a bundle. Raises BundleError or OSError."""
        manifest = Manifest.read(directory)
        digest = (directory / SEAL).read_text(encoding="ascii").strip()
        return cls(load_featuriser(directory, manifest), digest)

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


def check_part(
    spans: Sequence[Span], part: Part, files: Path, schema: Schema, bundle: ServedBundle
) -> int:
    """Return the number of lists of a bundle in a part, whose arrays are all those of the journal.

    Args:
        files: directory of the part's tables.

    Raises DataError if some arrays differ: a model would train on other features than it served.
    """
    joined, lists, differing = dict(served_lists(files, schema)), 0, list[str]()
    for record in read_records(spans, part.start, part.end, Counter(), f"check {part.name}"):
        if not isinstance(record, DecisionRecord) or record.bundle.digest != bundle.digest:
            continue
        again = joined.get(record.record)
        if again is not None:
            lists += 1
            if _arrays(bundle.featuriser, again) != _arrays(
                bundle.featuriser, record.candidate_list()
            ):
                differing.append(record.record)
    if differing:
        rule = f"{len(differing)} of {lists} joined lists give other arrays than were served"
        raise DataError(files, rule, value=differing[0])
    return lists


def _arrays(featuriser: Featuriser, candidates: CandidateList) -> list[bytes]:
    return [array.tobytes() for array in featuriser.transform(candidates)]
