"""Slates of the decoding loop with the bonus of diversity, for many lists at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from model.data.lists import Lists
from model.learning.policy import Batch, Policy
from model.network.intent import IntentTensors
from model.network.reasoning import decode, greedy

Array = np.ndarray[Any, Any]


@torch.no_grad()
def loop_slates(
    policy: Policy,
    lists: Lists,
    values: Array,
    weight: float,
    law: str,
    decay: float,
    batch: int = 512,
) -> Array:
    """Compose greedy slates int64 [R, K] as the service does, with one diversity term.

    Args:
        values: values of the attribute, bool [R, N, V].
        weight: weight of the term in nats; 0 leaves it out.
        law: sum or mean.
        decay: in (0, 1).
    """
    generator, reasoning = policy.generator.eval(), policy.config.reasoning
    slates = []
    for start in range(0, len(lists), batch):
        b = Batch(lists, slice(start, start + batch))
        encoded = generator.encode(b.numbers, b.tokens, b.mask)
        of_batch = values[start : start + batch]
        decoded = decode(
            generator,
            encoded,
            policy.config.slate_length,
            greedy,
            reasoning.recommend_temperature,
            policy.configured_gate(len(b.mask), reasoning.budget, b.mask.device),
            intent=term(of_batch, weight, law, decay) if weight else None,
        )
        slates.append(decoded.slate)
    return torch.cat(slates).numpy()


def term(values: Array, weight: float, law: str, decay: float) -> IntentTensors:
    """Return the intent of empty slates with one diversity term.

    A last column, which nothing lowers, stands for the candidates without values.

    Args:
        values: bool [R, N, V].
    """
    rows, counts = len(values), values.sum(axis=2, keepdims=True)
    share = values / np.maximum(counts, 1) if law == "mean" else values
    shares = np.concatenate([share, counts == 0], axis=2).astype(np.float32)
    retained = torch.full((rows, shares.shape[2]), 1.0 - decay)
    retained[:, -1] = 1.0
    return IntentTensors(
        boost=torch.zeros(rows, 1),
        values=torch.from_numpy(shares),
        member=torch.ones(rows, 1, shares.shape[2]),
        weight=torch.full((rows, 1), weight),
        retained=retained,
        kept=torch.ones_like(retained),
    )
