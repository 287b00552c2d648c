"""Write the graphs of intent into a bundle, and compare them where torch is not at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.agreement import DisagreementError, agree
from export.draws import random_batches
from export.graph.intent import RewriteError, intent_file
from export.replays import intent_requests, write_golden
from service.engine.contract import (
    EVALUATOR,
    GENERATOR,
    INTENT_GENERATOR,
    INTENT_GOLDEN,
    INTENT_STATIC,
    STATIC,
    BundleError,
    Manifest,
)
from service.engine.features.candidates import CandidateList
from service.engine.graph import open_graph
from service.engine.rows import Row, Slate
from service.engine.session import Session

LAW_TOLERANCE = 2e-4  # nats, of the adjustment of one logit in float32
AVAILABLE = -1e8  # above the logits of candidates that may not be chosen


def write_intent_graphs(directory: Path) -> None:
    """Write the graphs of intent beside those of the generator, and no golden requests yet.

    Raises BundleError for a generator that no export has composed.
    """
    for name, source in ((INTENT_GENERATOR, GENERATOR), (INTENT_STATIC, STATIC)):
        try:
            content = intent_file(directory / source)
        except RewriteError as error:
            raise BundleError(f"{directory / source}: {error}") from error
        (directory / name).write_bytes(content)
    write_golden(directory / INTENT_GOLDEN, [])


def write_intent_golden(directory: Path, manifest: Manifest) -> Manifest:
    """Write golden requests with intent into a bundle, and its manifest anew; return that.

    Raises VerificationError if too few of the requests drawn are clear of ties.
    """
    write_golden(directory / INTENT_GOLDEN, intent_requests(Session.load(directory)))
    return manifest.write(directory)


def check_intent(
    session: Session, directory: Path, lists: list[list[CandidateList]]
) -> dict[str, float]:
    """Compare the graphs of intent with each other and with the stated law on random batches.

    Returns the slates compared, their ties, and the largest differences in nats: of the two forms'
    figures, and of the law. Raises DisagreementError.
    """
    names = (STATIC, EVALUATOR, INTENT_STATIC)
    graphs = (open_graph(directory / name, 1, "cpu") for name in names)
    static = Session(session.manifest, session.featuriser, *graphs)
    sessions = {"the gated form": session, "the static form": static}
    batches = random_batches(session, lists, seed=1, intents=True)
    agreement = agree(sessions, batches)
    return {
        **dataclasses.asdict(agreement),
        "largest_departure_from_law": max(departure(session, rows) for rows in batches),
    }


def departure(session: Session, rows: Sequence[Row]) -> float:
    """Return the largest difference of logits from those without intent plus the stated adjustment.

    The slates are decoded without reasoning, which reads the adjusted logits, and again without
    intent, with every candidate pinned to its position. Raises DisagreementError above the
    tolerance.
    """
    rows = [dataclasses.replace(row, sampling=None, budget=0) for row in rows]
    slates = session.run(rows)
    plain = session.run([pinned(row, slate) for row, slate in zip(rows, slates, strict=True)])
    largest = 0.0
    for row, slate, other in zip(rows, slates, plain, strict=True):
        assert row.intent is not None
        assert slate.logits is not None
        assert other.logits is not None
        stated = other.logits + row.intent.adjustment(slate.indices.tolist())
        differences = np.abs(slate.logits - stated)[slate.logits > AVAILABLE]
        difference = float(differences.max(initial=0.0))
        if not difference <= LAW_TOLERANCE:  # NaN fails too
            raise DisagreementError(
                f"a list of {len(row.numbers)}: the logits with intent may depart by "
                f"{LAW_TOLERANCE} from those without it plus the adjustment, got {difference:.2e}"
            )
        largest = max(largest, difference)
    return largest


def pinned(row: Row, slate: Slate) -> Row:
    """Return the row without intent whose slate is this one."""
    constraints = dataclasses.replace(row.constraints, pinned=slate.indices)
    return dataclasses.replace(row, constraints=constraints, intent=None)
