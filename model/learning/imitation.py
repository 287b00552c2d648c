"""Learn from search: imitate a teacher whose slates have a high objective.

GRPO pays one number for a whole slate. Here every choice of a slate has a target, the softmax of
what each candidate would add to the objective after the items so far, or under an exhaustive
teacher of what it would lose under the best continuation. Half of the prefixes are the
teacher's and half are the generator's, so that it also learns to go on after its mistakes. Gates
are drawn at random for each batch, so that no step, every step, and anything between can be served.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.learning.distributed import all_reduce
from model.learning.lookahead import losses_along
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy
from model.learning.teacher import Lessons
from model.network.controls import control_gate
from model.network.generator import Choice, Encoded
from model.network.layers import MASKED, full_precision
from model.network.objectives_config import SearchConfig
from model.network.reasoning import Gate, greedy, sampler


class RecordingGate:
    """A gate that keeps the logits before each step.

    revised: (position, steps before, logits [R, N]) for each step of each position, of all rows.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate, self.max_steps = gate, gate.max_steps
        self.revised: list[tuple[int, int, Tensor]] = []

    def __call__(self, position: int, step: int, choice: Choice) -> Tensor:
        self.revised.append((position, step, choice.logits))
        return self.gate(position, step, choice)


class Imitation:
    """The loss of the stage: cross-entropy of the choices against soft targets."""

    def __init__(
        self, settings: SearchConfig, policy: Policy, objective: Objective, lessons: Lessons
    ) -> None:
        """lessons: of the teacher, in the order of the stage's lists."""
        self.settings, self.policy, self.objective = settings, policy, objective
        self.slates, self.values = lessons
        self.budget = policy.config.reasoning.budget
        self.sample = sampler(policy.config.reasoning.recommend_temperature)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar; the losses of all ranks add up."""
        generator, settings = self.policy.generator, self.settings
        encoded = generator.encode(batch.numbers, batch.tokens, batch.mask)
        gate = RecordingGate(self.gate(encoded))
        taught = self.slates[batch.index].to(batch.mask.device)
        follows = torch.rand(len(taught)).to(taught.device) >= settings.on_policy

        def pick(position: int, logits: Tensor) -> Tensor:
            item = self.sample(position, logits.detach().float())
            return torch.where(follows, taught[:, position].clamp(min=0), item)

        decoded = self.policy.decode(encoded, pick, gate)
        with full_precision(batch.mask.device):
            gains = self.gains(batch, decoded.slate)
        present = decoded.slate >= 0
        loss = soft_loss(decoded.logits, gains, present, settings.temperature)
        if not settings.step_weight or self.budget < 2:
            return loss
        of_steps = self.step_loss(gate, decoded.reasoned, gains)
        return (1 - settings.step_weight) * loss + settings.step_weight * of_steps

    def gains(self, batch: Batch, slate: Tensor) -> Tensor:
        """Return what the targets weigh before each position of slates [B, K], float [B, K, N].

        The exhaustive teacher looks ahead: its gains are losses under the best continuation.
        """
        if self.values is None:
            return self.objective.of(batch).gains_along(slate)
        values = self.values[batch.index].to(slate.device)
        return losses_along(values, slate, batch.mask.shape[1])

    def gate(self, encoded: Encoded) -> Gate:
        """Return the configured gate, or draw one: no step, every step, or a random quantile."""
        rows, device = len(encoded.mask), encoded.mask.device
        if self.settings.gates == "configured" or not self.budget:
            return self.policy.configured_gate(rows, self.budget, device, learning=True)
        kind = int(torch.randint(3, ()))
        if kind == 0:
            return self.policy.entropy_gate(rows, 0, device)
        if kind == 1:
            return control_gate("always", self.policy.config.slate_length, self.budget, 1.0)
        with torch.no_grad():
            plain = self.policy.decode(encoded, greedy, self.policy.entropy_gate(rows, 0, device))
        entropies = plain.entropy_before[plain.slate >= 0].float()
        gate = self.policy.entropy_gate(rows, self.budget, device)
        gate.threshold = torch.quantile(entropies, float(torch.rand(()))).expand(rows)
        return gate

    def step_loss(self, gate: RecordingGate, reasoned: Tensor, gains: Tensor) -> Tensor:
        """Return the mean loss of the choices between two reasoning steps, a scalar.

        The target of the choice after step s of S is diffuse at first and sharp at the last step.

        Args:
            gate: that of the decoding.
            reasoned: steps taken, bool [B, K, S].
            gains: float [B, K, N].
        """
        total, count = gains.new_zeros(()), gains.new_zeros(())
        for position, steps, logits in gate.revised:
            if steps:
                went_on = reasoned[:, position, steps].float()
                losses = choice_losses(logits, gains[:, position], self.temperature(steps))
                total, count = total + (losses * went_on).sum(), count + went_on.sum()
        return total / all_reduce(count).clamp(min=1)

    def temperature(self, steps: int) -> float:
        """Return the temperature of the target after a number of steps, from 1 to the budget."""
        first, last = self.settings.first_temperature, self.settings.temperature
        return first * (last / first) ** ((steps - 1) / max(self.budget - 1, 1))


def soft_targets(gains: Tensor, available: Tensor, temperature: float) -> Tensor:
    """Return the distribution float [..., N] that gains [..., N] of available candidates make.

    It is the softmax of gains over the largest of them in size and the temperature.
    """
    largest = (gains.abs() * available).amax(dim=-1, keepdim=True).clamp(min=1e-9)
    return torch.softmax((gains / (largest * temperature)).masked_fill(~available, MASKED), dim=-1)


def choice_losses(logits: Tensor, gains: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy [...] of logits [..., N] against the soft targets of the gains."""
    targets = soft_targets(gains, logits > MASKED / 2, temperature)
    return -(targets * torch.log_softmax(logits.float(), dim=-1)).sum(dim=-1)


def soft_loss(logits: Tensor, gains: Tensor, present: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of the choices that put an item, a scalar; ranks' losses add up.

    logits, gains [B, K, N]; present bool [B, K].
    """
    losses = choice_losses(logits, gains, temperature)
    return (losses * present).sum() / all_reduce(present.sum()).clamp(min=1)
