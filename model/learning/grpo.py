"""GRPO (arXiv 2402.03300) against a frozen reward model, replaying the steps of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from model.learning.accelerator import Accelerator
from model.learning.distributed import all_reduce, world_size
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy, descend, pointer_loss
from model.network.config import GrpoConfig
from model.network.evaluator import RewardModel
from model.network.generator import Encoded, Generator
from model.network.layers import full_precision
from model.network.reasoning import Decoded, Replay, follow, sampler


class Grpo:
    """Samples G slates per request with reasoning on, rewards them, and updates the generator.

    One decoding serves a whole round: next to the G sampled slates, each request has one more that
    follows the log, for the supervised loss, and the first update differentiates the sample itself.
    """

    def __init__(
        self,
        settings: GrpoConfig,
        policy: Policy,
        reference: Generator,
        reward_model: RewardModel,
        accelerator: Accelerator,
        objective: Objective | None = None,
    ) -> None:
        """objective: rewards slates in place of the utility."""
        self.settings, self.policy, self.reward_model = settings, policy, reward_model
        self.objective = objective
        self.accelerator = accelerator
        self.budget = policy.config.reasoning.budget
        self.reference = Policy(policy.config, reference, policy.threshold, policy.share)
        self.pick = sampler(policy.config.reasoning.recommend_temperature)

    def update(self, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
        """Sample slates of a batch of requests, then make `updates_per_sample` gradient steps.

        The metrics of all ranks add up.
        """
        # No dropout: a ratio between two different dropout masks would be noise.
        generator = self.policy.generator.eval()
        settings, inputs = self.settings, (batch.numbers, batch.tokens, batch.mask)
        with self.accelerator.autocast():
            encoded = generator.encode(*inputs)
            order = self.policy.logged_order(batch, encoded)
            sample = self._sample(encoded, order)
            slates = self._without_logged(sample.slate)
            reward = self._reward(batch, slates)
            reference = self._reference_logprob(inputs, sample)
        advantage = advantages(reward)
        before = self._without_logged(sample.logprob.detach())
        current = sample
        for repetition in range(settings.updates_per_sample):
            if repetition:
                with self.accelerator.autocast():
                    current = self._replay(self.policy, generator, inputs, sample)
            policy_loss = grpo_loss(
                self._without_logged(current.logprob),
                before,
                reference,
                advantage,
                slates >= 0,
                settings.clip,
                settings.kl,
            )
            logged = current.logits.view(len(order), -1, *current.logits.shape[1:])[:, -1]
            supervised = pointer_loss(logged, order, batch.gains)
            loss = policy_loss + settings.supervised * supervised
            if settings.imitate:
                loss = loss + settings.imitate * imitation_loss(
                    self._without_logged(current.logprob), advantage, slates >= 0
                )
            descend(optimizer, generator, loss)
        steps = self._without_logged(sample.steps).sum(dim=2)
        return {
            "reward": reward.mean().item() / world_size(),
            "supervised": supervised.item(),
            "steps": steps.float().mean().item() / world_size(),
        }

    def _sample(self, encoded: Encoded, order: Tensor) -> Decoded:
        """Compose G sampled slates and the logged one per request, side by side."""
        slates = self.settings.group + 1

        def pick(position: int, logits: Tensor) -> Tensor:
            item = self.pick(position, logits).view(-1, slates)
            item[:, -1] = order[:, position].clamp(min=0)
            return item.flatten()

        return self.policy.decode(encoded, pick, self.budget, slates, learning=True)

    def _replay(
        self, policy: Policy, generator: Generator, inputs: tuple[Tensor, ...], sample: Decoded
    ) -> Decoded:
        """Compose the same slates with the same reasoning steps under other weights."""
        encoded = generator.encode(*inputs)
        slates = self.settings.group + 1
        return policy.decode(encoded, follow(sample.slate), Replay(sample.reasoned), slates)

    @torch.no_grad()
    def _reference_logprob(self, inputs: tuple[Tensor, ...], sample: Decoded) -> Tensor:
        """Return log-probabilities [B, G, K] under the policy at the start; unused without KL."""
        if not self.settings.kl:
            return self._without_logged(sample.logprob.detach())
        replay = self._replay(self.reference, self.reference.generator, inputs, sample)
        return self._without_logged(replay.logprob)

    @torch.no_grad()
    def _reward(self, batch: Batch, slates: Tensor) -> Tensor:
        """Return the utility or the objective [B, G] of slates [B, G, K]."""
        if self.objective is not None:
            with full_precision(slates.device):
                return self.objective.of(batch).value(slates)
        embedded = self.reward_model.embed(batch.numbers, batch.tokens)
        embedded = embedded.repeat_interleave(slates.shape[1], 0)
        return self.reward_model.utility(embedded, slates.flatten(0, 1)).view(slates.shape[:2])

    def _without_logged(self, rows: Tensor) -> Tensor:
        """Drop the logged slates: [B * (G + 1), K] -> [B, G, K]."""
        return rows.view(-1, self.settings.group + 1, rows.shape[1])[:, :-1]


def advantages(reward: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Standardise rewards [B, G] within each group; a group without spread gives zeros."""
    centred = reward - reward.mean(dim=1, keepdim=True)
    std = reward.std(dim=1, unbiased=False, keepdim=True)
    return torch.where(std > epsilon, centred / (std + epsilon), torch.zeros_like(centred))


def imitation_loss(logprob: Tensor, advantage: Tensor, alive: Tensor) -> Tensor:
    """Return the negative log-likelihood per item of the best slate of each group, a scalar.

    Self-imitation (arXiv 1806.05635) has less noise than the policy gradient that it accompanies.
    logprob [B, G, K], advantage [B, G], alive bool [B, G, K]; groups without spread are left out.
    The losses of all ranks add up.
    """
    best = advantage.argmax(dim=1, keepdim=True)
    kept = alive & (advantage.gather(1, best) > 0).unsqueeze(2)
    index = best.unsqueeze(2).expand(-1, 1, logprob.shape[2])
    kept, best_logprob = kept.gather(1, index), logprob.gather(1, index)
    return -(best_logprob * kept).sum() / all_reduce(kept.sum()).clamp(min=1)


def grpo_loss(
    logprob: Tensor,
    sampled_logprob: Tensor,
    reference_logprob: Tensor,
    advantage: Tensor,
    alive: Tensor,
    clip: float,
    kl: float,
) -> Tensor:
    """Return the clipped policy loss over item choices (arXiv 2402.03300, eq. 3), a scalar.

    logprob, sampled_logprob, reference_logprob [..., K] of the chosen items under the current
    weights, under those that sampled, and under the warm start; advantage [...]; alive bool
    [..., K]. Reasoning tokens are not choices: they carry gradient but have no likelihood. The
    losses of all ranks add up.
    """
    ratio = torch.exp(logprob - sampled_logprob)
    gain = torch.minimum(
        ratio * advantage.unsqueeze(-1), ratio.clamp(1 - clip, 1 + clip) * advantage.unsqueeze(-1)
    )
    # This estimator of the divergence is unbiased and never negative (arXiv 2402.03300, eq. 4).
    log_ratio = reference_logprob - logprob
    divergence = torch.exp(log_ratio) - log_ratio - 1.0
    return -((gain - kl * divergence) * alive).sum() / all_reduce(alive.sum())
