"""The rows of a run, the slates decoded for them, and the timing of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.engine.constraints import SlateConstraints
from service.engine.contract import Floats, Integers
from service.engine.features.layout import EncodedList
from service.engine.features.stored_items import StoredList
from service.engine.intent import SlateIntent


@dataclass(frozen=True)
class SlateSampling:
    """Sample `slates` slates, the same for the same seed, and keep the one of highest utility."""

    slates: int
    seed: int

    def noise(self, positions: int, size: int) -> Floats:
        """Return Gumbel noise float32 [slates, K, N], whatever rows share the batch."""
        draw = np.random.Generator(np.random.Philox(self.seed))
        noise = draw.gumbel(size=(self.slates, positions, size))
        return noise.astype(np.float32)


# Built for every list and not frozen: a frozen dataclass takes seven times as long to build.
@dataclass(slots=True)
class Row:
    """One featurised candidate list and its options.

    numbers float32 [N, F]; budget: reasoning steps per position; entropy_threshold in nats. Without
    sampling the slate is the greedy one. unknown: candidates that neither item table nor store has.
    intent: is added to the logits, None for none; only for a session that `supports_intent`.

    rows float32 [N, D] are the generator's item rows, and `encoded` is what those of the evaluator
    are made from. A bundle of the old contract has tokens int64 [N, T] in their place.
    """

    numbers: Floats
    tokens: Integers
    slate_size: int
    budget: int
    entropy_threshold: float
    reason_temperature: float
    recommend_temperature: float
    constraints: SlateConstraints
    sampling: SlateSampling | None = None
    explain: bool = False
    rows: Floats | None = None
    encoded: EncodedList | None = None
    unknown: int = 0
    intent: SlateIntent | None = None
    stored: StoredList | None = None


@dataclass(slots=True)  # not frozen, as Row
class Slate:
    """One decoded slate of k positions.

    indices int64 [k] into the candidate list; logprob, entropy_before, entropy_after float32 [k]
    (nats); steps int64 [k], the reasoning steps taken before each position; utility of a sampled
    slate, estimated by the evaluator; logits float32 [k, N] of each choice, with the adjustment of
    the intent, for a row that is explained or has an intent; they are far below the rest where a
    candidate may not be chosen. sample: number of the sampled slate that was kept.
    """

    indices: Integers
    logprob: Floats
    entropy_before: Floats
    entropy_after: Floats
    steps: Integers
    utility: float | None = None
    logits: Floats | None = None
    sample: int = 0


@dataclass(frozen=True)
class Timing:
    """One measured run: its budget per position, volume (slates x padded list size) and seconds."""

    budget: int
    volume: int
    seconds: float
