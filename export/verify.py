"""Compare a trained model in torch with its exported graphs in onnxruntime."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from export.cases import RequestSampler, cases, random_rows
from model.learning.checkpoint import Trained
from model.network.intent import IntentTensors
from model.network.reasoning import ConstraintTensors, Decoded, EntropyGate, decode, noisy_argmax
from service.engine.collate import collate, intent_inputs, padded
from service.engine.contract import (
    EVALUATOR,
    GENERATOR,
    INTENT_GENERATOR,
    INTENT_STATIC,
    OUTPUTS,
    STATIC,
)
from service.engine.features.row_featuriser import RowFeaturiser
from service.engine.graph import open_graph
from service.engine.rows import Row, Slate
from service.engine.session import features_of

LOGPROB_TOLERANCE = 1e-4  # of log-probabilities, entropies (nats) and utilities
# Two choices closer than this are a tie for float32: either is right.
TIE = 1e-5
# At most this share of the slates may be ties. A difference in a sampled slate counts as one: its
# items are chosen by log-probability plus noise, so the distance of two logits does not tell how
# close the choice was. A graph that ignores its noise differs in more slates than this.
MAX_TIES = 0.01
UNDISPUTED = 1e9  # margin of a decision without an alternative
NAMES = list(OUTPUTS)[:5]
FORMS, INTENT_FORMS = (GENERATOR, STATIC), (INTENT_GENERATOR, INTENT_STATIC)
FIGURES = ("logprob", "entropy_before", "entropy_after")
ADVICE = (
    "Run pytest tests/export/graph: it compares each host's lowering (export/graph/lower.py) with "
    "its torch module"
)


class VerificationError(RuntimeError):
    """torch and onnxruntime disagree, so no bundle is written."""


@dataclass(frozen=True)
class Difference:
    """The largest difference among the figures of one slate, and its place."""

    position: int
    figure: str  # of FIGURES
    torch: float
    onnxruntime: float
    size: float  # absolute; NaN if a figure is NaN


@dataclass
class Agreement:
    """Slates compared, ties among them, and the largest difference of the others' figures."""

    slates: int = 0
    ties: int = 0
    largest_difference: float = 0.0

    def add(self, difference: Difference | None, place: str) -> None:
        """Count one slate; None stands for a tie. Raises VerificationError above the tolerance.

        place: form, case and row of the slate, for the message.
        """
        self.slates += 1
        if difference is None:
            self.ties += 1
            return
        if not difference.size <= LOGPROB_TOLERANCE:  # NaN fails too
            raise VerificationError(
                f"{place}, position {difference.position}: {difference.figure} is "
                f"{difference.torch:.6f} in torch and {difference.onnxruntime:.6f} in onnxruntime; "
                f"may differ by {LOGPROB_TOLERANCE}, got {difference.size:.2e}. {ADVICE}"
            )
        self.largest_difference = max(self.largest_difference, difference.size)


def verify(trained: Trained, bundle: Path, requests: RequestSampler) -> dict[str, Any]:
    """Compare torch with both forms of the graph, and the evaluators, on every case.

    Every other case is compared with random intents as well, on the graphs of intent.

    Raises VerificationError naming the first difference.
    """
    graphs = {
        name: open_graph(bundle / name, 1, "cpu", packed=name not in (GENERATOR, INTENT_GENERATOR))
        for name in (*FORMS, *INTENT_FORMS, EVALUATOR)
    }
    featuriser = RowFeaturiser.load(bundle)
    served = partial(features_of, featuriser)
    agreement, began = Agreement(), time.monotonic()
    for number, case in enumerate(tqdm(cases(trained), "verify", disable=None, leave=False)):
        rows = random_rows(trained, requests, case, seed=number)
        expected = decode_torch(trained, rows)
        served_rows = random_rows(trained, requests, case, number, served)
        feeds = collate(served_rows, trained.config.slate_length)
        for form in FORMS:
            compare_form(agreement, graphs[form], feeds, rows, expected, f"{form}, {case}")
        encoded = [row.encoded for row in served_rows if row.encoded is not None]
        of_evaluator = [featuriser.rows(one, "evaluator") for one in encoded]
        feeds["rows"] = padded(of_evaluator, feeds["mask"].shape[1])
        tensors = tensors_of(trained, rows)
        difference = compare_evaluators(trained, graphs[EVALUATOR], feeds, tensors, expected.slate)
        agreement.largest_difference = max(agreement.largest_difference, difference)
        if number % 2:
            continue
        # An odd number of thresholds lets every other case cover each of them.
        rows = random_rows(trained, requests, case, number, intents=True)
        expected = decode_torch(trained, rows)
        served_rows = random_rows(trained, requests, case, number, served, intents=True)
        feeds = collate(served_rows, trained.config.slate_length)
        feeds |= intent_inputs([row.intent for row in served_rows], feeds)
        for form in INTENT_FORMS:
            compare_form(agreement, graphs[form], feeds, rows, expected, f"{form}, {case}")
    if agreement.ties > agreement.slates * MAX_TIES:
        raise VerificationError(
            f"{agreement.ties} of {agreement.slates} slates differ in a tie or in sampled items; "
            f"at most {MAX_TIES:.0%} may. {ADVICE}"
        )
    return {**dataclasses.asdict(agreement), "seconds": round(time.monotonic() - began, 1)}


def compare_form(
    agreement: Agreement,
    graph: Any,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    rows: Sequence[Row],
    expected: Decoded,
    place: str,
) -> None:
    """Add the slates of one graph to the agreement. Raises VerificationError.

    Args:
        feeds: the graph's inputs for the rows.
        expected: the slates of torch.
        place: form and case, for the message.
    """
    outputs = graph.run(NAMES, feeds)
    for index, row in enumerate(each_slate(rows)):
        slate = Slate(*(output[index, : row.slate_size] for output in outputs))
        of_row = f"{place}, row {index}"
        agreement.add(compare(expected, index, row, slate, of_row), of_row)


def each_slate(rows: Sequence[Row]) -> list[Row]:
    """Repeat every row once for each slate that it samples."""
    return [row for row in rows for _ in range(row.sampling.slates if row.sampling else 1)]


def tensors_of(trained: Trained, rows: list[Row]) -> dict[str, torch.Tensor]:
    """Return the graph's inputs for these rows, padded to the longest list."""
    arrays = collate(rows, trained.config.slate_length)
    intents = [row.intent for row in rows]
    if any(intent is not None for intent in intents):
        arrays |= intent_inputs(intents, arrays)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def decode_torch(trained: Trained, rows: list[Row]) -> Decoded:
    """Decode the rows with the torch loop; a row that samples gives several slates."""
    feeds = tensors_of(trained, rows)
    lists = feeds["list"]
    reason, recommend = (feeds[f"{n}_temperature"].unsqueeze(1) for n in ("reason", "recommend"))
    with torch.no_grad():
        inputs = (feeds[name][lists] for name in ("numbers", "tokens", "mask"))
        return decode(
            trained.generator,
            trained.generator.encode(*inputs),
            trained.config.slate_length,
            noisy_argmax(feeds["noise"], recommend),
            recommend,
            EntropyGate(feeds["entropy_threshold"], feeds["budget"]),
            constraints=ConstraintTensors(
                feeds["length"], feeds["pinned"], feeds["group"], feeds["quota"]
            ),
            reason_temperature=reason,
            intent=IntentTensors.begin(feeds) if "boost" in feeds else None,
        )


def compare_evaluators(
    trained: Trained,
    graph: Any,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    tensors: Mapping[str, torch.Tensor],
    slate: torch.Tensor,
) -> float:
    """Return the largest difference of the utilities of slates int64 [R, K].

    Args:
        feeds: the graph's inputs, with the evaluator's rows.
        tensors: the same lists as torch reads them.

    Raises VerificationError above the tolerance.
    """
    inputs = {name: feeds[name] for name in ("rows", "numbers", "list")}
    (utility,) = graph.run(["utility"], {**inputs, "slate": slate.numpy()})
    with torch.no_grad():
        embedded = trained.evaluator.embed(tensors["numbers"], tensors["tokens"])
        expected = trained.evaluator.utility(embedded[tensors["list"]], slate)
    difference = float(np.abs(utility - expected.numpy()).max())
    if not difference <= LOGPROB_TOLERANCE:  # NaN fails too
        raise VerificationError(
            f"{EVALUATOR}: utilities of torch and onnxruntime may differ by {LOGPROB_TOLERANCE}, "
            f"got {difference:.2e}; compare evaluator_likes (export/graph/lower.py) with the module"
        )
    return difference


def compare(expected: Decoded, index: int, row: Row, slate: Slate, place: str) -> Difference | None:
    """Return the largest difference of one slate's figures, or None for a tie.

    place: form, case and row, for the message. Raises VerificationError when slates or steps differ
    without a tie.
    """
    size = row.slate_size
    items = expected.slate[index, :size].numpy()
    steps = expected.steps[index, :size].numpy()
    differ = (items != slate.indices) | (steps != slate.steps)
    if differ.any():
        first = int(np.flatnonzero(differ)[0])
        if margins(expected, index, row)[first] < TIE:
            return None
        raise VerificationError(
            f"{place}, position {first} of a list of {len(row.numbers)}: torch chose "
            f"{items.tolist()} after {steps.tolist()} steps, onnxruntime "
            f"{slate.indices.tolist()} after {slate.steps.tolist()}. {ADVICE}"
        )
    ours = np.stack([getattr(expected, name)[index, :size].numpy() for name in FIGURES])
    theirs = np.stack([getattr(slate, name) for name in FIGURES])
    sizes = np.abs(ours - theirs)
    at = np.unravel_index(sizes.argmax(), sizes.shape)  # a NaN counts as the largest
    values = (float(array[at]) for array in (ours, theirs, sizes))
    return Difference(int(at[1]), FIGURES[at[0]], *values)


def margins(expected: Decoded, index: int, row: Row) -> np.ndarray[Any, Any]:
    """Return per position [k] the distance of the nearest decision from the other outcome.

    A decision is a choice (difference of the two largest logits) or a gate (nats). A sampled slate
    has margin 0: the noise on its choices decides, which the logits do not hold.
    """
    size = row.slate_size
    if row.sampling:
        return np.zeros(size)
    logits = expected.logits[index, :size]
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    choice = (top[:, 0] - top[:, -1]) if top.shape[1] > 1 else torch.full((size,), UNDISPUTED)
    choice = torch.where(torch.from_numpy(row.constraints.pinned) >= 0, UNDISPUTED, choice)
    if row.budget == 0:
        return choice.numpy()
    before = (expected.entropy_before[index, :size] - row.entropy_threshold).abs()
    after = (expected.entropy_after[index, :size] - row.entropy_threshold).abs()
    return torch.minimum(choice, torch.minimum(before, after)).numpy()
