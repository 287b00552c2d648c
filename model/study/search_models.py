"""Data sets and models of the study of learning from search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.network.config import ConfigError
from model.network.hosts import HOSTS
from model.study.search_command import Search
from model.study.variants import HOST, Overrides

RANKLENS, MOVIELENS, WORLD = "RankLens", "MovieLens-1M", "known world"
LONG = "RankLens, trained for longer"
EVERY_STEP: Overrides = {
    "search": {"gates": "configured"},
    "reasoning": {"training_gate": "always"},
}
PER_STEP: Overrides = {"search": {"step_weight": 0.3}}
ZERO: Overrides = {"reasoning": {"token": "zero"}}
LEARNED: Overrides = {"reasoning": {"token": "learned"}}
HOST_NAME = "host"
# Variants of every host. The first is the reference of the others.
VARIANTS: dict[str, Overrides] = {
    HOST_NAME: HOST,
    "EGLR": {},
    "zero token": ZERO,
    "learned token": LEARNED,
    "EGLR, every step in training": EVERY_STEP,
    "EGLR, S = 6": {"reasoning": {"budget": 6}},
    "EGLR, teacher per step": PER_STEP,
    "zero token, teacher per step": {**PER_STEP, **ZERO},
}
CONTROLS = tuple(VARIANTS)[:4]
FULL = ("pointer EGLR",)  # ranks behind every gate
TRAINED_ALWAYS = "pointer EGLR, every step in training"


def is_host(name: str) -> bool:
    """Return true for a model that never reasons."""
    return overrides_of(name)["reasoning"] == HOST["reasoning"]


def overrides_of(name: str) -> dict[str, Mapping[str, Any]]:
    """Return the fields that a model changes, by section; its name is a host and a variant.

    Raises ConfigError for a name of no model.
    """
    host, _, variant = name.partition(" ")
    if host not in HOSTS or variant not in VARIANTS:
        rule = f"one of {', '.join(HOSTS)}, and one of {'; '.join(VARIANTS)}"
        raise ConfigError(f"--models: must be {rule}, got {name!r}")
    return {"reasoning": {}, **VARIANTS[variant], "network": {"host": host}}


@dataclass(frozen=True)
class Source:
    """A data set of the study, with the configuration of its runs.

    Args:
        attribute: of the items, for alpha-NDCG@10; None in the known world, which has none.
        held_out: rank so many lists of the validation and the test split; None for all.
        evaluator_lists: the evaluator learns from the first so many train lists; None for all.
        models: in the order in which their cells are filled, a host first.
    """

    name: str
    data: Path
    config: Path
    attribute: str | None
    held_out: int | None
    evaluator_lists: int | None
    models: tuple[str, ...]


def plan_sources(command: Search, world: Path) -> list[Source]:
    """Return the data sets of a command, the known world first; a missing directory is left out.

    Ideas are tried where reasoning has something to see, in the known world.

    Args:
        world: directory of the known world's data set.

    Raises ConfigError for a name of no data set or model.
    """
    others = ("gru", "transformer")
    pointer = tuple(f"pointer {variant}" for variant in VARIANTS)
    main = tuple(f"pointer {variant}" for variant in CONTROLS)
    looking = tuple(f"{host} {variant}" for host in others for variant in CONTROLS)
    pairs = tuple(f"{host} {variant}" for host in others for variant in CONTROLS[:2])
    plan = {
        "world": Source(WORLD, world, command.world_config, None, 400, None, (*pointer, *looking)),
        "ranklens": Source(
            RANKLENS, command.data, command.config, "genres", 800, None, (*pointer[:5], *pairs)
        ),
        "long": Source(
            LONG,
            command.data,
            command.long_config,
            "genres",
            800,
            None,
            ("pointer host", TRAINED_ALWAYS),
        ),
        "movielens": Source(
            MOVIELENS, command.movielens, command.movielens_config, "genres", 800, 2500, main
        ),
    }
    for name in command.datasets:
        if name not in plan:
            raise ConfigError(f"--datasets: must be one of {', '.join(plan)}, got {name!r}")
    sources = [
        source
        for name, source in plan.items()
        if (not command.datasets or name in command.datasets)
        and (name == "world" or source.data.exists())
    ]
    if command.smoke:
        sources = [replace(source, evaluator_lists=128) for source in sources]
        sources = [source for source in sources if source.name != LONG]
    models = command.models or (FULL if command.smoke else ())
    return [with_models(source, models) for source in sources]


def with_models(source: Source, models: Sequence[str]) -> Source:
    """Return a source with these models, each after its host; without any, the source itself.

    Raises ConfigError for a name of no model.
    """
    if not models:
        return source
    for model in models:
        overrides_of(model)
    chosen = dict.fromkeys(name for model in models for name in (host_of(model), model))
    return replace(source, models=tuple(chosen))


def host_of(model: str) -> str:
    """Return the plain host of a model."""
    return f"{model.partition(' ')[0]} {HOST_NAME}"
