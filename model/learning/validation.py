"""Measure evaluator and generator on validation lists, shared by all processes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.data.lists import Lists
from model.data.metrics import mean, selecting_metric, slate_metrics
from model.learning.distributed import all_gather, all_reduce, rank, shard
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy, evaluator_loss
from model.learning.state import Metrics
from model.network.config import Config
from model.network.evaluator import Evaluator, RewardModel
from service.engine.features.schema import LabelScale

AT_ONCE = 256  # lists


class Validation:
    """The validation lists of a run, with the networks that are measured on them.

    `lists` are all of them, for the evaluator; `rankable` those with an order, for the generator.
    """

    def __init__(
        self,
        lists: Lists,
        rankable: Lists,
        policy: Policy,
        evaluator: Evaluator,
        reward_model: RewardModel,
        objective: Objective | None = None,
    ) -> None:
        self.lists, self.labels, self.scale = lists, rankable.labels, rankable.scale
        self.part = rankable.take(shard(np.arange(len(rankable))))
        self.policy, self.evaluator, self.reward_model = policy, evaluator, reward_model
        self.objective = objective

    @property
    def device(self) -> torch.device:
        return self.policy.generator.start_token.device

    @torch.no_grad()
    def evaluator_score(self) -> tuple[float, Metrics]:
        """Return the negated loss over all lists, and that loss as a metric."""
        self.evaluator.eval()
        losses = []
        every = np.arange(len(self.lists))
        for start in range(0, len(every), AT_ONCE):
            batch = Batch(self.lists, shard(every[start : start + AT_ONCE]), self.device)
            part = evaluator_loss(self.evaluator, batch, self.policy.config.slate_length)
            losses.append(part.item())
        mean = torch.tensor(float(np.mean(losses)), dtype=torch.float64, device=self.device)
        loss = float(all_reduce(mean))
        return -loss, {"loss": loss}

    def generator_score(self) -> tuple[float, Metrics]:
        """Measure greedy slates; the score is the configured selection, such as NDCG@10.

        With a graded gain the NDCG@10 that selects is graded.
        """
        config = self.policy.config
        # The random control draws the same coins at every validation.
        torch.manual_seed(config.seed + rank())
        decoded = self.policy.greedy_slates(self.part, config.reasoning.budget)
        slate = torch.cat([d.slate for d in decoded])
        utility = all_gather(self._utility(slate))
        scores = slate_metrics(all_gather(slate).numpy(), self.labels, self.scale)
        metrics = {name: mean(values) for name, values in scores.items()}
        steps = all_gather(torch.cat([d.steps for d in decoded])).sum(dim=1)
        metrics["steps"] = float(steps.float().mean())
        metrics["utility"] = float(utility.mean())
        if self.objective is not None:
            metrics["objective"] = float(all_gather(self._objective(slate)).mean())
        return metrics[selected_metric(config, self.scale)], metrics

    @torch.no_grad()
    def _objective(self, slate: Tensor) -> Tensor:
        """Return the objective [R] of slates [R, K] of this rank's lists."""
        assert self.objective is not None
        parts = []
        for start in range(0, len(slate), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            of_lists = self.objective.of(Batch(self.part, rows, self.device))
            parts.append(of_lists.value(slate[rows].unsqueeze(1)).squeeze(1))
        return torch.cat(parts)

    @torch.no_grad()
    def _utility(self, slate: Tensor) -> Tensor:
        """Return the utility [R] of slates [R, K] of this rank's lists."""
        self.evaluator.eval()
        parts = []
        for start in range(0, len(slate), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            batch = Batch(self.part, rows, self.device)
            embedded = self.reward_model.embed(batch.numbers, batch.tokens)
            parts.append(self.reward_model.utility(embedded, slate[rows]))
        return torch.cat(parts)

    def threshold(self) -> float:
        """Return the configured quantile of the generator's entropies without reasoning."""
        entropies = all_gather(self.policy.entropies(self.part))
        return float(torch.quantile(entropies, self.policy.config.reasoning.entropy_quantile))

    def entropy_share(self) -> float:
        """Return the part of all K x S steps that the entropy gate takes."""
        budget = self.policy.config.reasoning.budget
        decoded = self.policy.greedy_slates(self.part, budget, by_entropy=True)
        taken = all_gather(torch.cat([d.reasoned.flatten(1).float().mean(dim=1) for d in decoded]))
        return float(taken.mean())


def selected_metric(config: Config, scale: LabelScale) -> str:
    """Return the name of the validation metric that selects the epoch."""
    return selecting_metric(scale) if config.selection == "ndcg@10" else config.selection
