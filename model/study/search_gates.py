"""Gates that spend equal mean steps on the same weights, to compare where they spend them.

A gate is chosen on validation lists so that its mean steps are a share of all K x S; on test lists
the realised steps are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.data.lists import Lists
from model.learning.policy import Batch, Policy
from model.network.controls import PlannedGate, RandomGate
from model.network.generator import Choice
from model.network.reasoning import Decoded, EntropyGate, Gate, greedy

SHARES = (0.5, 0.25, 0.1)
NONE, ALWAYS = "no step", "every step"
KINDS = ("entropy", "random", "middle", "first")
HALTING = "halting"  # by convergence, which takes at least a step: only at the largest share
TOLERANCE = 0.02  # of all steps: distance of the mean steps of a chosen gate from its share
MOST_TRIALS = 12
Build = Callable[[int], Gate]  # with the number of rows


class ConvergenceGate:
    """Takes the first step everywhere, and goes on while the last step changed the choice.

    least: KL(before the last step || after it) in nats, below which a row halts.
    """

    def __init__(self, least: float, budget: int) -> None:
        self.least, self.max_steps = least, budget
        self._before: Tensor | None = None  # log-probabilities before the last step, [R, N]

    def __call__(self, _position: int, step: int, choice: Choice) -> Tensor:
        before, now = self._before, torch.log_softmax(choice.logits, dim=-1)
        self._before = now
        if not step or before is None:
            return torch.ones_like(choice.entropy, dtype=torch.bool)
        return (before.exp() * (before - now)).sum(dim=-1) > self.least


def gate_name(kind: str, share: float) -> str:
    """Return the name of a gate in cells and tables, such as "entropy 25 %"."""
    return f"{kind} {share:.0%}".replace("%", " %")


def gate_names(full: bool) -> list[str]:
    """Return the gates of a model that reasons, by rising cost of the comparison.

    Args:
        full: all controls at all shares; otherwise no step, the entropy gate, and every step.
    """
    kinds = KINDS if full else KINDS[:1]
    equal = [gate_name(kind, share) for share in SHARES for kind in kinds]
    return [NONE, *equal, *([gate_name(HALTING, SHARES[0])] if full else []), ALWAYS]


def build_gates(policy: Policy, valid: Lists, names: Sequence[str], seed: int) -> dict[str, Build]:
    """Return gates by name, chosen on validation lists.

    Args:
        seed: of the coins of the random gate.
    """
    length, budget = policy.config.slate_length, policy.config.reasoning.budget
    entropies = policy.entropies(valid)

    def entropy(quantile: float) -> Build:
        threshold = float(torch.quantile(entropies, quantile))
        return lambda rows: EntropyGate(
            torch.full((rows,), threshold), torch.full((rows,), budget, dtype=torch.int64)
        )

    def halting(limit: float) -> Build:
        return lambda _rows: ConvergenceGate(10.0 ** (7.0 * limit - 6.0), budget)

    def random(share: float) -> Build:
        coins = torch.Generator().manual_seed(seed)
        return lambda _rows: RandomGate(share, budget, coins)

    def planned(plan: list[int]) -> Build:
        return lambda _rows: PlannedGate(plan)

    gates = {}
    for name in names:
        if name in (NONE, ALWAYS):
            gates[name] = planned([budget if name == ALWAYS else 0] * length)
            continue
        kind, share = parse(name)
        if kind in (KINDS[0], HALTING):
            build = entropy if kind == KINDS[0] else halting
            gates[name] = fit_limit(policy, valid, build, share)
        elif kind == "random":
            gates[name] = random(share)
        else:
            gates[name] = planned(plan_steps(kind, length, budget, share))
    return gates


def parse(name: str) -> tuple[str, float]:
    """Return kind and share of a gate with a name like "entropy 25 %"."""
    kind, percent, _ = name.split(" ")
    return kind, float(percent) / 100


def plan_steps(kind: str, length: int, budget: int, share: float) -> list[int]:
    """Return the steps before each position, int [K], that add up to the share of all.

    "first" fills the positions in order, "middle" from the middle of the slate.
    """
    middle = (length - 1) / 2 if kind == "middle" else 0.0
    left, plan = round(share * length * budget), [0] * length
    for position in sorted(range(length), key=lambda k: abs(k - middle)):
        plan[position] = min(left, budget)
        left -= plan[position]
    return plan


def fit_limit(policy: Policy, lists: Lists, build: Callable[[float], Build], share: float) -> Build:
    """Return the gate that takes a share of all steps on lists, of those with limits 0 to 1.

    Steps fall as the limit rises. The interval is halved until they are within TOLERANCE.
    """
    low, high, limit = 0.0, 1.0, 1.0 - share
    steps_of_all = policy.config.slate_length * policy.config.reasoning.budget
    for _ in range(MOST_TRIALS):
        steps = torch.cat([d.steps for d in decode_all(policy, lists, build(limit))])
        realised = float(steps.sum(dim=1).double().mean()) / steps_of_all
        if abs(realised - share) <= TOLERANCE / 2:
            break
        low, high = (limit, high) if realised > share else (low, limit)
        limit = (low + high) / 2
    return build(limit)


@torch.no_grad()
def decode_all(policy: Policy, lists: Lists, build: Build, at_once: int = 256) -> list[Decoded]:
    """Compose a greedy slate for every list behind a gate, in batches and without logits."""
    decoded = []
    policy.generator.eval()
    for start in range(0, len(lists), at_once):
        batch = Batch(lists, slice(start, start + at_once))
        encoded = policy.generator.encode(batch.numbers, batch.tokens, batch.mask)
        slates = policy.decode(encoded, greedy, build(len(batch.mask)))
        empty = slates.logits[:, :0]
        decoded.append(slates._replace(logits=empty, logits_before=empty))
    return decoded
