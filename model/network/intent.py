"""The intent of slates in torch: diversity and boosts (service.engine.intent has the law)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class IntentTensors(NamedTuple):
    """The intent of R slates; the tensors of the graph's inputs, each with a row per slate.

    boost: float [R, N], or [R, 1] for none
    values: float [R, N, C], share u of each value of a candidate; the first column is FLOOR
    member: float [R, A, C], 1 where the column is of the attribute
    weight: float [R, A]
    retained: float [R, C], 1 - decay
    kept: float [R, C], retained ^ (items of the slate so far that have the value)
    """

    boost: Tensor
    values: Tensor
    member: Tensor
    weight: Tensor
    retained: Tensor
    kept: Tensor

    @classmethod
    def begin(cls, feeds: Mapping[str, Tensor]) -> IntentTensors:
        """Return the intent of empty slates from the graph's inputs (INTENT_INPUTS and `list`)."""
        lists, retained = feeds["list"], feeds["retained"]
        return cls(
            feeds["boost"],
            feeds["values"][lists],
            feeds["member"][lists],
            feeds["diversity_weight"],
            retained,
            torch.ones_like(retained),
        )

    def adjustment(self) -> Tensor:
        """Return what is added to the logits [R, N] of the next choice."""
        share = (self.member * self.kept.unsqueeze(1)) @ self.values.transpose(1, 2)  # [R, A, N]
        bonus = self.weight.unsqueeze(1) @ share.log()
        return self.boost + bonus.squeeze(1)

    def after(self, item: Tensor) -> IntentTensors:
        """Return the intent after item [R] was put into the slate."""
        index = item.view(-1, 1, 1).expand(-1, 1, self.values.shape[2])
        held = self.values.gather(1, index).squeeze(1) > 0
        return self._replace(kept=torch.where(held, self.kept * self.retained, self.kept))
