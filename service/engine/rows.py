"""One row of a run, the slate decoded for it, and the time that a run took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.engine.constraints import SlateConstraints
from service.engine.contract import Floats, Integers


@dataclass(frozen=True)
class SlateSampling:
    """Sample `slates` slates, the same for the same seed, and keep the evaluator's favourite."""

    slates: int
    seed: int

    def noise(self, positions: int, size: int) -> Floats:
        """Gumbel noise [slates, K, N]; of this request alone, whatever is batched with it."""
        draw = np.random.Generator(np.random.Philox(self.seed))
        noise = draw.gumbel(size=(self.slates, positions, size))
        return noise.astype(np.float32)


@dataclass(frozen=True)
class Row:
    """One featurised request: numbers float32 [N, F], tokens int64 [N, T] and its knobs.

    Without sampling the slate is the greedy one.
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


@dataclass(frozen=True)
class Slate:
    """One decoded slate of k positions.

    indices int64 [k] into the candidate list; logprob, entropy_before, entropy_after float32 [k]
    (nats); steps int64 [k], the reasoning steps taken before each position; utility of a sampled
    slate, as the evaluator sees it; logits float32 [k, N] each choice was made by, of an explained
    one: what may not be chosen any more is far below the rest.
    """

    indices: Integers
    logprob: Floats
    entropy_before: Floats
    entropy_after: Floats
    steps: Integers
    utility: float | None = None
    logits: Floats | None = None


@dataclass(frozen=True)
class Timing:
    """One measured run: its budget per position, its cells (slates x padded list size), seconds."""

    budget: int
    volume: int
    seconds: float
