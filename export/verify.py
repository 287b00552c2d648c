"""Compare a trained model in torch with its exported graphs in onnxruntime."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from export.cases import Requests, cases, random_rows
from model.learning.checkpoint import Trained
from model.network.reasoning import ConstraintTensors, Decoded, EntropyGate, decode, noisy_argmax
from service.engine.collate import collate
from service.engine.contract import EVALUATOR, GENERATOR, INPUTS, OUTPUTS, STATIC
from service.engine.graph import open_graph
from service.engine.rows import Row, Slate

LOGPROB_TOLERANCE = 1e-4
# Two choices closer than this are an exact tie for float32: either is right.
TIE = 1e-5
# A sampled choice is taken for a tie, since what is compared has noise on it: few may be one.
MOST_TIES = 0.01


class VerificationError(RuntimeError):
    """torch and onnxruntime disagree: the bundle is not written."""


def tensors_of(trained: Trained, rows: list[Row]) -> dict[str, torch.Tensor]:
    """The rows as the graph's inputs, padded to the longest."""
    arrays = collate(rows, trained.config.slate_length)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def decode_torch(trained: Trained, rows: list[Row]) -> Decoded:
    """The rows through the torch loop; a row that samples takes as many slates."""
    feeds = tensors_of(trained, rows)
    lists = feeds["list"]
    knobs = {name: feeds[f"{name}_temperature"].unsqueeze(1) for name in ("reason", "recommend")}
    with torch.no_grad():
        given = (feeds[name][lists] for name in ("numbers", "tokens", "mask"))
        return decode(
            trained.generator,
            trained.generator.encode(*given),
            trained.config.slate_length,
            noisy_argmax(feeds["noise"], knobs["recommend"]),
            knobs["recommend"],
            EntropyGate(feeds["entropy_threshold"], feeds["budget"]),
            constraints=ConstraintTensors(
                feeds["length"], feeds["pinned"], feeds["group"], feeds["quota"]
            ),
            reason_temperature=knobs["reason"],
        )


def verify(trained: Trained, bundle: Path, requests: Requests) -> dict[str, Any]:
    """Compare torch with both forms of the graph, and the evaluators, on every case.

    Raises VerificationError naming the first difference.
    """
    graphs = {
        name: open_graph(bundle / name, 1, "cpu", packed=name != GENERATOR)
        for name in (GENERATOR, STATIC, EVALUATOR)
    }
    worst, ties, slates, began = 0.0, 0, 0, time.monotonic()
    for number, case in enumerate(tqdm(cases(trained), "verify", leave=False)):
        rows = random_rows(trained, requests, case, seed=number)
        expected = decode_torch(trained, rows)
        feeds = {n: t.numpy() for n, t in tensors_of(trained, rows).items()}
        each = [row for row in rows for _ in range(row.sampling.slates if row.sampling else 1)]
        for form in (GENERATOR, STATIC):
            names = list(OUTPUTS)[:5]
            outputs = graphs[form].run(names, {name: feeds[name] for name in INPUTS})
            for index, row in enumerate(each):
                slate = Slate(*(output[index, : row.slate_size] for output in outputs))
                difference = compare(expected, index, row, slate, form)
                slates += 1
                if difference is None:
                    ties += 1
                elif not difference <= LOGPROB_TOLERANCE:  # nor may it be NaN
                    raise VerificationError(
                        f"{form}, {case}, row {index}: log-probabilities or entropies differ by "
                        f"{difference:.2e}, allowed {LOGPROB_TOLERANCE}"
                    )
                else:
                    worst = max(worst, difference)
        worst = max(worst, compare_evaluators(trained, graphs[EVALUATOR], feeds, expected.slate))
    if ties > slates * MOST_TIES:
        raise VerificationError(f"{ties} of {slates} slates differ, all of them as by exact ties")
    seconds = round(time.monotonic() - began, 1)
    return {"slates": slates, "ties": ties, "largest_difference": worst, "seconds": seconds}


def compare_evaluators(
    trained: Trained, graph: Any, feeds: dict[str, np.ndarray[Any, Any]], slate: torch.Tensor
) -> float:
    """Largest difference of the utilities of slates int64 [R, K]. Raises VerificationError."""
    given = {name: feeds[name] for name in ("numbers", "tokens", "list")}
    (found,) = graph.run(["utility"], {**given, "slate": slate.numpy()})
    with torch.no_grad():
        embedded = trained.evaluator.embed(
            *(torch.from_numpy(feeds[n]) for n in ("numbers", "tokens"))
        )
        expected = trained.evaluator.utility(embedded[torch.from_numpy(feeds["list"])], slate)
    difference = float(np.abs(found - expected.numpy()).max())
    if not difference <= LOGPROB_TOLERANCE:  # nor may it be NaN
        raise VerificationError(
            f"{EVALUATOR}: utilities differ by {difference:.2e}, allowed {LOGPROB_TOLERANCE}"
        )
    return difference


def compare(
    expected: Decoded, index: int, row: Row, slate: Slate, form: str = GENERATOR
) -> float | None:
    """Largest difference of one row, None where an exact tie went the other way.

    Raises VerificationError when slates or steps differ without a tie.
    """
    size = row.slate_size
    want = expected.slate[index, :size].numpy()
    steps = expected.steps[index, :size].numpy()
    if (want != slate.indices).any() or (steps != slate.steps).any():
        margins = margin(expected, index, row)
        first = int(np.flatnonzero((want != slate.indices) | (steps != slate.steps))[0])
        if margins[first] < TIE:
            return None
        raise VerificationError(
            f"{form}, position {first} of a list of {len(row.numbers)}: torch chose "
            f"{want.tolist()} after {steps.tolist()} steps, onnxruntime "
            f"{slate.indices.tolist()} after "
            f"{slate.steps.tolist()}"
        )
    differences = [
        np.abs(getattr(expected, name)[index, :size].numpy() - getattr(slate, name)).max()
        for name in ("logprob", "entropy_before", "entropy_after")
    ]
    return float(max(differences))


def margin(expected: Decoded, index: int, row: Row) -> np.ndarray[Any, Any]:
    """Per position [k], how far the nearest decision - choice or gate - was from the other way."""
    size = row.slate_size
    logits = expected.logits[index, :size]
    if row.sampling:  # what is compared has noise on it: no choice is known to be clear
        return np.zeros(size)
    top = logits.topk(min(2, logits.shape[1]), dim=1).values
    choice = (top[:, 0] - top[:, -1]) if top.shape[1] > 1 else torch.full((size,), 1e9)
    choice = torch.where(torch.from_numpy(row.constraints.pinned) >= 0, 1e9, choice)
    before = (expected.entropy_before[index, :size] - row.entropy_threshold).abs()
    after = (expected.entropy_after[index, :size] - row.entropy_threshold).abs()
    if row.budget == 0:
        return choice.numpy()
    return torch.minimum(choice, torch.minimum(before, after)).numpy()
