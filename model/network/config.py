"""The configuration of a training run: every number that shapes it, with its meaning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from model.network.hosts import HOSTS
from model.network.objectives_config import ObjectivesConfig, SearchConfig, TermConfig

Fraction = Annotated[float, Field(ge=0, le=1)]
STRICT = ConfigDict(extra="forbid")


class ConfigError(ValueError):
    """A configuration that names an unknown field or an impossible value."""


@dataclass(frozen=True, config=STRICT)
class NetworkConfig:
    """Shape of a network: the generator's, and the evaluator's unless it has its own."""

    host: str = "transformer"  # the decoder that reasons: a name of model.network.hosts.HOSTS
    width: PositiveInt = 64  # D, of candidates, tokens and hidden states
    heads: PositiveInt = 4  # attention heads; width must divide by it
    encoder_blocks: int = 1  # transformer blocks over the candidates, or over the slate
    dropout: float = 0.2  # on every residual branch and on the network's input
    input_dropout: Fraction = 0.0  # on the numbers of candidates, for few lists with many numbers
    recurrent: bool = False  # a GRU along the slate before the blocks; of an evaluator only

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        if host not in HOSTS:
            raise ValueError(f"must be one of {', '.join(HOSTS)}")
        return host

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width: must divide by heads ({self.heads}), got {self.width}")
        return self


@dataclass(frozen=True, config=STRICT)
class ReasoningConfig:
    """The reasoning loop; temperatures and quantile are design choices, not the paper's."""

    budget: NonNegativeInt = 3  # S, maximum number of reasoning steps per position
    entropy_quantile: Fraction = 0.5  # threshold = this quantile of the plain host's entropies
    reason_temperature: PositiveFloat = 1.5  # softens the aggregate behind a reasoning token
    recommend_temperature: PositiveFloat = 0.7  # sharpens the choice of an item
    # The fields below are for controls and ablations; only the entropy gate is exported.
    # "normalised" compares entropy / ln(number of candidates); the rest are in controls.py.
    gate: Literal["entropy", "normalised", "always", "random", "middle", "first"] = "entropy"
    # Content of a reasoning token: the aggregate of the candidates, a learned pause token, or zero.
    token: Literal["aggregate", "learned", "zero"] = "aggregate"
    stop_gradient: bool = False  # no gradient through the aggregate
    # The host's output for a token is added to the hidden state, or replaces it.
    update: Literal["add", "replace"] = "add"
    # Share of the warm start's loss that scores the choice before reasoning.
    deep_supervision: Fraction = 0.0
    random_budget: bool = False  # in training, each row draws its budget from 0 to S
    # "always" takes every step in training; the gate then decides only at inference.
    training_gate: Literal["same", "always"] = "same"


@dataclass(frozen=True, config=STRICT)
class StageConfig:
    """One supervised stage."""

    epochs: PositiveInt
    batch: PositiveInt = 64  # requests per update
    learning_rate: float = 1e-3  # AdamW, linear warm-up over the first epoch, cosine to a tenth
    weight_decay: float = 0.05


@dataclass(frozen=True, config=STRICT)
class GrpoConfig:
    """Group-relative policy optimisation against the frozen evaluator."""

    epochs: PositiveInt = 4  # of `samples_per_epoch` rounds of sampling; validation after each
    samples_per_epoch: int = 20
    batch: PositiveInt = 32  # requests per round
    group: Annotated[int, Field(ge=2)] = 8  # G, slates sampled per request
    updates_per_sample: int = 2  # PPO updates on one round of samples
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    clip: float = 0.2  # PPO clip of the likelihood ratio
    kl: float = 0.01  # weight of the divergence from the warm-started policy
    supervised: float = 0.1  # weight of the warm-start loss next to the policy loss
    imitate: float = 0.0  # weight of the likelihood of each group's best slate (arXiv 1806.05635)


@dataclass(frozen=True, config=STRICT)
class Config:
    """A whole run: evaluator, warm start with reasoning, learning from search or GRPO."""

    seed: int = 0
    # Validation metric that selects the epoch; with a graded gain NDCG@10 is the graded one.
    # "objective" is that of `objectives`.
    selection: Literal["ndcg@10", "utility", "objective"] = "ndcg@10"
    # Utility of a slate: mean like-probability, discounted by position as in DCG, or even.
    utility: Literal["discounted", "even"] = "discounted"
    slate_length: PositiveInt = 10  # K, positions decoded
    max_candidates: PositiveInt = 500  # longest list the exported graph accepts
    train_lists: int | None = None  # use only the first so many training requests (smoke runs)
    # Number of tokens from which a step updates only the embeddings of its batch, not the table.
    sparse_vocabulary: PositiveInt = 50_000
    network: NetworkConfig = NetworkConfig()
    evaluator_network: NetworkConfig | None = None
    reasoning: ReasoningConfig = ReasoningConfig()
    evaluator: StageConfig = StageConfig(epochs=8)
    warm_start: StageConfig = StageConfig(epochs=10)
    grpo: GrpoConfig = GrpoConfig()
    # The value of a slate in place of the utility: reward of GRPO, and goal of the search.
    objectives: ObjectivesConfig | None = None
    search: SearchConfig | None = None  # a stage after the warm start, with or without GRPO

    @model_validator(mode="after")
    def _check_objectives(self) -> Self:
        for name, needs in (("search", self.search), ("selection", self.selection == "objective")):
            if needs and self.objectives is None:
                value = "a search" if name == "search" else repr(self.selection)
                raise ValueError(f"{name}: must come with objectives, got {value} without them")
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in their order, which are also names of sections."""
        if self.search is None:
            return ("evaluator", "warm_start", "grpo")
        grpo = ("grpo",) if self.search.followed_by_grpo else ()
        return ("evaluator", "warm_start", "search", *grpo)

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read YAML. Raises ConfigError that names file, field, rule and value."""
        try:
            return cls.from_json(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        except (ConfigError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, payload: Any) -> Config:
        """Validate a mapping. Raises ConfigError that names every wrong field, rule and value."""
        try:
            return TypeAdapter(cls).validate_python(payload)
        except ValidationError as error:
            lines = [_describe(details) for details in error.errors()]
            raise ConfigError("; ".join(lines)) from error

    def to_json(self) -> dict[str, Any]:
        """Return the inverse of `from_json`."""
        return dataclasses.asdict(self)

    def override(
        self, seed: int | None = None, budget: int | None = None, epochs: int | None = None
    ) -> Config:
        """Replace seed, reasoning budget and every stage's epochs unless they are None.

        Raises ConfigError.
        """
        payload = self.to_json()
        if seed is not None:
            payload["seed"] = seed
        if budget is not None:
            payload["reasoning"]["budget"] = budget
        if epochs is not None:
            for stage in self.stages:
                payload[stage]["epochs"] = epochs
        return self.from_json(payload)

    def smoke(self) -> Config:
        """Shrink the run to seconds for tests; its results are not worth serving."""
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
            search=self.search and dataclasses.replace(self.search, epochs=2, batch=32),
        )


SECTIONS: dict[tuple[str, ...], type[Any]] = {
    (): Config,
    ("network",): NetworkConfig,
    ("evaluator_network",): NetworkConfig,
    ("reasoning",): ReasoningConfig,
    ("evaluator",): StageConfig,
    ("warm_start",): StageConfig,
    ("grpo",): GrpoConfig,
    ("objectives",): ObjectivesConfig,
    ("objectives", "terms"): TermConfig,
    ("search",): SearchConfig,
}


def _describe(details: ErrorDetails) -> str:
    """Return "field: rule, got value" of one of pydantic's errors."""
    path = tuple(str(part) for part in details["loc"])
    field = ".".join(path) or "configuration"
    if details["type"] == "unexpected_keyword_argument":
        section = tuple(part for part in path[:-1] if not part.isdigit())
        fields = sorted(item.name for item in dataclasses.fields(SECTIONS[section]))
        return f"{field}: unknown field; must be one of {', '.join(fields)}"
    if details["type"] in ("missing", "missing_argument"):
        return f"{field}: required, but missing"
    if details["type"] == "dataclass_type":
        return f"{field}: must be a mapping of fields, got {details['input']!r}"
    rule = details["msg"].removeprefix("Value error, ").replace("Input should", "must")
    # Rules of a whole section name their field themselves, unlike those of one field.
    if details["type"] == "value_error" and path[-1:] not in (("host",), ("weight",)):
        return f"{field}.{rule}" if path else rule
    return f"{field}: {rule}, got {details['input']!r}"
