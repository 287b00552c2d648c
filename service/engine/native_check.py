"""Compare the native library with the graph, slate by slate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.constraints import ConstraintError, resolve
from service.engine.contract import Floats
from service.engine.intent import DiversityTerm, SlateIntent, build_intent
from service.engine.native import NativeOutputs
from service.engine.rows import Row, SlateSampling

CLOSE = 1e-5  # margin below which rounding may decide, and tolerance of entropies, nats
SLATES = 2  # of a sampled row
MOST_VALUES = 8  # of one attribute of a random intent


class DifferenceError(RuntimeError):
    """The native library decodes another slate than the graph, or other figures."""


@dataclass
class Comparison:
    """Slates compared, those that differ at a margin below `CLOSE`, and the largest difference."""

    slates: int = 0
    close: int = 0
    largest_difference: float = 0.0  # of entropies and, beyond 1 nat relative, log-probabilities

    def add(self, rows: Sequence[Row], graph: NativeOutputs, native: NativeOutputs) -> None:
        """Count the slates of explained rows. Raises DifferenceError for the first that differs."""
        owners = [row for row in rows for _ in range(row.sampling.slates if row.sampling else 1)]
        seen: Row | None = None
        sample = 0
        for number, row in enumerate(owners):
            sample = sample + 1 if row is seen else 0
            seen = row
            self.slates += 1
            size = row.slate_size
            differ = (graph.slate[number] != native.slate[number])[:size]
            differ |= (graph.steps[number] != native.steps[number])[:size]
            if differ.any():
                self._add_difference(row, sample, number, int(differ.argmax()), graph, native)
                continue
            for name in ("logprob", "entropy_before", "entropy_after"):
                one, other = (getattr(part, name)[number, :size] for part in (graph, native))
                # The log-probability of an unlikely item is large, and rounded accordingly.
                scale = np.maximum(1.0, np.abs(one)) if name == "logprob" else 1.0
                difference = float((np.abs(one - other) / scale).max(initial=0.0))
                if not difference <= CLOSE:  # NaN fails too
                    raise DifferenceError(
                        f"{name} may differ by {CLOSE}, got {difference:.1e}: "
                        f"{other.tolist()}, the graph has {one.tolist()}"
                    )
                self.largest_difference = max(self.largest_difference, difference)

    def _add_difference(
        self,
        row: Row,
        sample: int,
        number: int,
        position: int,
        graph: NativeOutputs,
        native: NativeOutputs,
    ) -> None:
        margin = margin_of(row, sample, number, position, graph, native)
        if not margin < CLOSE:
            raise DifferenceError(
                f"slate {native.slate[number].tolist()} after {native.steps[number].tolist()} "
                f"steps, the graph has {graph.slate[number].tolist()} after "
                f"{graph.steps[number].tolist()}; the margin at position {position} is {margin:.1e}"
            )
        self.close += 1


def margin_of(
    row: Row,
    sample: int,
    number: int,
    position: int,
    graph: NativeOutputs,
    native: NativeOutputs,
) -> float:
    """Return the distance of the nearest decision at a position, choice or gate, from the other.

    sample: number of the slate within its row; number: within the batch.
    """
    assert graph.logits is not None
    logits = graph.logits[number]
    assert logits is not None
    scores = logits[position] / np.float32(row.recommend_temperature)
    if row.sampling is not None:
        scores = scores + row.sampling.noise(len(logits), len(scores))[sample, position]
    top = np.sort(scores)[-2:]
    margins = [float(top[-1] - top[0])] if len(top) > 1 else []
    for outputs in (graph, native):
        for entropy in (outputs.entropy_before, outputs.entropy_after):
            margins.append(abs(float(entropy[number, position]) - row.entropy_threshold))
    return min(margins)


def random_row(
    numbers: Floats,
    positions: int,
    thresholds: Sequence[float],
    budget: int,
    draw: np.random.Generator,
    intents: bool,
) -> Row:
    """Return an explained row with random options over a list.

    Args:
        numbers: float32 [N, F]; the row has no item rows.
        positions: K.
        thresholds: of which one is drawn, nats.
        budget: the highest that is drawn.
        draw: the source of randomness.
        intents: give it an intent.
    """
    size = len(numbers)
    ids = [str(place) for place in range(size)]
    longest = min(size, int(draw.integers(1, positions + 1)))
    pins = {str(draw.integers(size)): int(draw.integers(longest))} if draw.random() < 0.4 else {}
    blocked = {str(draw.integers(size))} - pins.keys() if draw.random() < 0.4 else set[str]()
    groups = draw.integers(0, 1 + size // 3, size).tolist()
    limit = ("group", int(draw.integers(1, 4))) if draw.random() < 0.5 else None
    try:
        length, constraints = resolve(ids, None, longest, pins, blocked, groups, limit)
    except ConstraintError:
        length, constraints = resolve(ids, None, longest, {}, set(), None, None)
    seed = int(draw.integers(1 << 32))
    return Row(
        numbers=numbers,
        tokens=np.zeros((size, 0), np.int64),
        slate_size=length,
        budget=int(draw.integers(0, budget + 1)),
        entropy_threshold=float(draw.choice(thresholds)),
        reason_temperature=float(draw.uniform(0.5, 3.0)),
        recommend_temperature=float(draw.uniform(0.3, 2.0)),
        constraints=constraints,
        sampling=SlateSampling(SLATES, seed) if draw.random() < 0.3 else None,
        explain=True,
        intent=random_intent(size, draw) if intents else None,
    )


def random_intent(size: int, draw: np.random.Generator) -> SlateIntent:
    """Return random boosts and diversity by up to two attributes for a list of `size`."""
    terms = [
        DiversityTerm(
            f"attribute {number}",
            float(draw.uniform(0.1, 2.0)),
            float(draw.uniform(0.05, 0.95)),
            "sum" if draw.random() < 0.5 else "mean",
        )
        for number in range(int(draw.integers(0, 3)))
    ]
    values_of = [
        [np.flatnonzero(draw.random(MOST_VALUES) < 0.3).tolist() for _ in range(size)]
        for _ in terms
    ]
    boosts = draw.uniform(-3.0, 3.0, size).astype(np.float32)
    return build_intent(terms, values_of, boosts if draw.random() < 0.5 else 0 * boosts)
