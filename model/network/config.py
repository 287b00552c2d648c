"""Every number that shapes a training run, with what it means."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from model.network.hosts import HOSTS

GATES = ("entropy", "normalised", "always", "random", "middle", "first")
TOKENS = ("aggregate", "learned", "zero")


class ConfigError(ValueError):
    """A configuration that names an unknown field or an impossible value."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a network: the generator's, and the evaluator's unless it has its own."""

    host: str = "transformer"  # the decoder that reasons: a name of model.network.hosts.HOSTS
    width: int = 64  # D, of candidates, tokens and hidden states
    heads: int = 4  # attention heads; width must divide by it
    encoder_blocks: int = 1  # transformer blocks over the candidates, or over the slate
    dropout: float = 0.2  # on every residual branch and on the network's input
    recurrent: bool = False  # a GRU along the slate before the blocks; of an evaluator only


@dataclass(frozen=True)
class ReasoningConfig:
    """The reasoning loop; temperatures and quantile after design choice, not the paper."""

    budget: int = 3  # S, most reasoning steps per position
    entropy_quantile: float = 0.5  # threshold = this quantile of the plain host's entropies
    reason_temperature: float = 1.5  # softens the aggregate behind a reasoning token
    recommend_temperature: float = 0.7  # sharpens the choice of an item
    # What follows is for controls and ablations; no gate but entropy is exported.
    gate: str = "entropy"  # or normalised (by its maximum), or a control (controls.py)
    token: str = "aggregate"  # of the candidates; or learned (a pause token), or zero
    stop_gradient: bool = False  # no gradient through the aggregate
    update: str = "add"  # what the host reads of a token adds to the hidden state, or "replace"s it
    deep_supervision: float = 0.0  # share of the warm start's loss on choices before reasoning
    random_budget: bool = False  # each row that is learnt from draws a budget from 0 to S
    training_gate: str = "same"  # or "always": learn with every step, gate only to rank


@dataclass(frozen=True)
class StageConfig:
    """One supervised stage."""

    epochs: int
    batch: int = 64  # requests per update
    learning_rate: float = 1e-3  # AdamW, linear warm-up over the first epoch, cosine to a tenth
    weight_decay: float = 0.05


@dataclass(frozen=True)
class GrpoConfig:
    """Group-relative policy optimisation against the frozen evaluator."""

    epochs: int = 4  # an epoch is `samples_per_epoch` rounds of sampling; validation after each
    samples_per_epoch: int = 20
    batch: int = 32  # requests per round
    group: int = 8  # G, slates sampled per request
    updates_per_sample: int = 2  # PPO updates on one round of samples
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    clip: float = 0.2  # PPO clip of the likelihood ratio
    kl: float = 0.01  # weight of the divergence from the warm-started policy
    supervised: float = 0.1  # weight of the warm-start loss beside the policy loss
    imitate: float = 0.0  # weight of the likelihood of each group's best slate (arXiv 1806.05635)


@dataclass(frozen=True)
class Config:
    """A whole run: evaluator, warm start with reasoning, GRPO."""

    seed: int = 0
    selection: str = "ndcg@10"  # what selects the epoch on validation lists: ndcg@10 or utility
    utility: str = "discounted"  # mean like-probability of a slate: discounted (as DCG) or even
    slate_length: int = 10  # K, positions decoded
    max_candidates: int = 500  # longest list the exported graph accepts
    train_lists: int | None = None  # use only the first so many training requests (smoke runs)
    network: NetworkConfig = NetworkConfig()
    evaluator_network: NetworkConfig | None = None
    reasoning: ReasoningConfig = ReasoningConfig()
    evaluator: StageConfig = StageConfig(epochs=8)
    warm_start: StageConfig = StageConfig(epochs=10)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)

    def __post_init__(self) -> None:
        network, reasoning = self.network, self.reasoning
        for name, value, good in (
            ("selection", self.selection, self.selection in ("ndcg@10", "utility")),
            ("utility", self.utility, self.utility in ("discounted", "even")),
            ("slate_length", self.slate_length, self.slate_length >= 1),
            ("max_candidates", self.max_candidates, self.max_candidates >= 1),
            ("network.host", network.host, network.host in HOSTS),
            ("network.heads", network.heads, network.heads >= 1),
            (
                "network.width",
                network.width,
                network.width > 0 and network.width % max(network.heads, 1) == 0,
            ),
            ("reasoning.budget", reasoning.budget, reasoning.budget >= 0),
            (
                "reasoning.entropy_quantile",
                reasoning.entropy_quantile,
                0 <= reasoning.entropy_quantile <= 1,
            ),
            (
                "reasoning.reason_temperature",
                reasoning.reason_temperature,
                reasoning.reason_temperature > 0,
            ),
            (
                "reasoning.recommend_temperature",
                reasoning.recommend_temperature,
                reasoning.recommend_temperature > 0,
            ),
            ("reasoning.gate", reasoning.gate, reasoning.gate in GATES),
            ("reasoning.token", reasoning.token, reasoning.token in TOKENS),
            (
                "reasoning.training_gate",
                reasoning.training_gate,
                reasoning.training_gate in ("same", "always"),
            ),
            ("reasoning.update", reasoning.update, reasoning.update in ("add", "replace")),
            (
                "reasoning.deep_supervision",
                reasoning.deep_supervision,
                0 <= reasoning.deep_supervision <= 1,
            ),
            *(
                (f"{stage}.{count}", value, value >= 1)
                for stage in ("evaluator", "warm_start", "grpo")
                for count in ("epochs", "batch")
                for value in [getattr(getattr(self, stage), count)]
            ),
            ("grpo.group", self.grpo.group, self.grpo.group >= 2),
        ):
            if not good:
                raise ConfigError(f"{name}: impossible value {value!r}")

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read YAML. Raises ConfigError naming file and field."""
        try:
            payload = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            return from_dict(cls, payload)
        except (ConfigError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {error}") from error

    def smoke(self) -> Config:
        """The same line in miniature: seconds, not minutes; nothing learned is worth serving."""
        stage = StageConfig(epochs=1, batch=32)
        return dataclasses.replace(
            self,
            slate_length=4,
            max_candidates=32,
            train_lists=128,
            network=dataclasses.replace(self.network, width=16, heads=2),
            evaluator_network=None,
            reasoning=dataclasses.replace(self.reasoning, budget=min(self.reasoning.budget, 2)),
            evaluator=stage,
            warm_start=dataclasses.replace(stage, epochs=2),
            grpo=dataclasses.replace(self.grpo, epochs=2, samples_per_epoch=2, batch=8, group=4),
        )


def from_dict(cls: type[Any], payload: Mapping[str, Any], path: str = "") -> Any:
    """Build a (nested) config dataclass; raises ConfigError for unknown fields, naming them."""
    fields = {item.name: item for item in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    nested = {
        "network": NetworkConfig,
        "evaluator_network": NetworkConfig,
        "reasoning": ReasoningConfig,
        "evaluator": StageConfig,
        "warm_start": StageConfig,
        "grpo": GrpoConfig,
    }
    for key, value in payload.items():
        if key not in fields:
            raise ConfigError(f"{path}{key}: unknown; one of {', '.join(sorted(fields))}")
        is_nested = cls is Config and key in nested and value is not None
        values[key] = from_dict(nested[key], value, f"{key}.") if is_nested else value
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error
