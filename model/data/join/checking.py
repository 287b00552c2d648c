"""Compare joined lists with those that were served: featurised, both give the same arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.data.errors import DataError
from model.data.join.options import Part
from model.data.join.reading import Span, read_records
from model.data.join.served import served_lists
from service.engine.contract import SEAL, Manifest
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser
from service.engine.features.loading import load_featuriser
from service.engine.features.schema import Schema
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
