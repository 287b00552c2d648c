"""The models, data sets and seeds of the quality report.

A study is a data set in one split and track with one seed; its cells are models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.network.config import Config, ConfigError

Overrides = Mapping[str, Mapping[str, Any]]

# The fields of each trained model that differ from the configuration, per section.
HOST: Overrides = {"reasoning": {"budget": 0}}
NEURAL: dict[str, Overrides] = {
    "transformer host": HOST,
    "transformer EGLR": {},
    "gru host": {"network": {"host": "gru"}, **HOST},
    "gru EGLR": {"network": {"host": "gru"}},
    "pointer host": {"network": {"host": "pointer"}, **HOST},
    "pointer EGLR": {"network": {"host": "pointer"}},
    # Cheaper to run: an attention of one head folds into its memory (export/graph/lower.py).
    "one head": {"network": {"heads": 1}},
}
BASELINES = ("random order", "shown order", "item like rate", "item logit", "LambdaMART",
             "NAR4Rec", "Seq2Slate")  # fmt: skip
# Where fewer models are compared: the hosts of the paper, and baselines of each kind.
ESSENCE = ("random order", "shown order", "item like rate", "LambdaMART", "NAR4Rec",
           "transformer host", "transformer EGLR", "gru host", "gru EGLR")  # fmt: skip
SEEDS = {"warm": 4, "cold": 3, "all": 1}  # of each split, at most; each seed takes much time


@dataclass(frozen=True)
class Study:
    """One data set, split, track and seed, and the models to fill a cell for."""

    dataset: str
    split: str
    track: str  # "stand-alone" or "first stage"
    seed: int
    data: Path
    models: tuple[str, ...]

    def directory(self, cache: Path) -> Path:
        """Return the directory of the study's cells."""
        return cache / self.dataset / self.split / self.track.replace(" ", "-") / f"seed{self.seed}"


def plan_studies(ranklens: Path, movielens: Path, seeds: int) -> list[Study]:
    """Return all studies, of at most `seeds` seeds and at most SEEDS of their split.

    The main comparison comes first. MovieLens is left out if its directory does not exist.
    """
    plan = [
        ("ranklens", "warm", "stand-alone", ranklens / "warm", (*BASELINES, *NEURAL)),
        ("ranklens", "cold", "stand-alone", ranklens / "cold", ESSENCE),
        ("movielens", "all", "first stage", movielens, ESSENCE),
    ]
    return [
        Study(dataset, split, track, seed, data, models)
        for dataset, split, track, data, models in plan
        if dataset != "movielens" or movielens.exists()
        for seed in range(min(seeds, SEEDS[split]))
    ]


def select(
    studies: Sequence[Study],
    tracks: Sequence[str] = (),
    models: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Study]:
    """Return the studies of these tracks and seeds with only these models, if they have any.

    A track is "SPLIT, TRACK", such as "warm, stand-alone". No tracks, models or seeds stand for
    all. Raises ConfigError for a name or seed that no study has.
    """
    for option, chosen, names in (
        ("--tracks", tracks, {f"{study.split}, {study.track}" for study in studies}),
        ("--models", models, {name for study in studies for name in study.models}),
        ("--only-seeds", seeds, {study.seed for study in studies}),
    ):
        for name in chosen:
            if name not in names:
                listed = "; ".join(str(choice) for choice in sorted(names))
                raise ConfigError(f"{option}: must be one of {listed}, got {name!r}")
    selected = [
        dataclasses.replace(
            study, models=tuple(name for name in study.models if not models or name in models)
        )
        for study in studies
        if (not tracks or f"{study.split}, {study.track}" in tracks)
        and (not seeds or study.seed in seeds)
    ]
    return [study for study in selected if study.models]


def smoke_studies(studies: Sequence[Study]) -> list[Study]:
    """Return one study with a model of each kind, small enough for a test."""
    models = ("random order", "LambdaMART", "transformer host", "transformer EGLR", "gru EGLR",
              "pointer EGLR", "one head")  # fmt: skip
    return [dataclasses.replace(studies[0], models=models)]


def with_overrides(config: Config, overrides: Overrides) -> Config:
    """Return the configuration with some fields of its sections replaced.

    A changed network is the generator's only: all cells of a study share one evaluator.
    """
    sections = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in overrides.items()
    }
    if "network" in overrides:
        sections["evaluator_network"] = config.evaluator_network or config.network
    return dataclasses.replace(config, **sections)
