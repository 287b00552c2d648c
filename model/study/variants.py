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
    "transformer EGLR S=1": {"reasoning": {"budget": 1}},
    "transformer EGLR": {},
    "gru host": {"network": {"host": "gru"}, **HOST},
    "gru EGLR": {"network": {"host": "gru"}},
}
CONTROLS: dict[str, Overrides] = {
    "always on": {"reasoning": {"gate": "always"}},
    "random gate": {"reasoning": {"gate": "random"}},
    "middle gate": {"reasoning": {"gate": "middle"}},
    "reason first": {"reasoning": {"gate": "first"}},
    "zero token": {"reasoning": {"token": "zero"}},
    "learned token": {"reasoning": {"token": "learned"}},
    "stop gradient": {"reasoning": {"stop_gradient": True}},
    "reason temperature 1": {"reasoning": {"reason_temperature": 1.0}},
    "recommend temperature 1": {"reasoning": {"recommend_temperature": 1.0}},
    "normalised entropy": {"reasoning": {"gate": "normalised"}},
    "threshold 30 %": {"reasoning": {"entropy_quantile": 0.3}},
    "threshold 70 %": {"reasoning": {"entropy_quantile": 0.7}},
    "threshold 90 %": {"reasoning": {"entropy_quantile": 0.9}},
}
# Attempts to make reasoning worth more, reported whatever their result.
IDEAS: dict[str, Overrides] = {
    "six steps": {"reasoning": {"budget": 6}},
    "token replaces the state": {"reasoning": {"update": "replace"}},
    "deep supervision": {"reasoning": {"deep_supervision": 0.5}},
    "random budgets": {"reasoning": {"random_budget": True}},
    "imitation of the best": {"grpo": {"imitate": 1.0}},
    "GRPO beside full supervision": {"grpo": {"supervised": 1.0}},
    "no encoder block": {"network": {"encoder_blocks": 0}},
    "no encoder block, plain host": {"network": {"encoder_blocks": 0}, **HOST},
    "gate only to rank": {"reasoning": {"training_gate": "always"}},
    "pointer host": {"network": {"host": "pointer"}, **HOST},
    "pointer EGLR": {"network": {"host": "pointer"}},
    # Cheaper to run: an attention of one head folds into its memory
    # (export/graph/lower.py).
    "one head": {"network": {"heads": 1}},
    "one head, stop gradient": {"network": {"heads": 1}, "reasoning": {"stop_gradient": True}},
}
BASELINES = ("random order", "shown order", "item like rate", "item logit", "LambdaMART",
             "list-wise MLP", "PRM", "NAR4Rec", "Seq2Slate", "Seq2Slate REINFORCE")  # fmt: skip
SIMPLE_BASELINES = ("random order", "shown order", "item like rate", "LambdaMART")
SLATES = (1, 2, 4, 8, 16)  # M of best of M


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

    @property
    def label(self) -> dict[str, str]:
        """Return the fields that identify the study in the report's JSON."""
        return {"dataset": self.dataset, "split": self.split, "track": self.track}


def plan_studies(ranklens: Path, movielens: Path, seeds: int) -> list[Study]:
    """Return all studies: `seeds` of them on the warm split, at most three elsewhere.

    The main comparison comes first. MovieLens is left out if its directory does not exist.
    """
    all_seeds, few_seeds = seeds, min(seeds, 3)
    everything = (*BASELINES, *NEURAL, "second evaluator")
    essence = (*SIMPLE_BASELINES, "transformer host", "transformer EGLR", "gru host", "gru EGLR")
    plan = [
        *((seed, "warm", "stand-alone", everything) for seed in range(all_seeds)),
        *((seed, "warm", "first stage", everything) for seed in range(all_seeds)),
        *((seed, "cold", "stand-alone", everything) for seed in range(few_seeds)),
        *((seed, "cold", "first stage", everything) for seed in range(few_seeds)),
        *((s, "warm", "stand-alone", ("best of M", *CONTROLS, *IDEAS)) for s in range(few_seeds)),
        *((s, "metarank", "stand-alone", essence) for s in range(few_seeds)),
    ]
    studies = []
    for seed, split, track, models in plan:
        data = ranklens / (split if track == "stand-alone" else f"{split}-first-stage")
        studies.append(Study("ranklens", split, track, seed, data, models))
    if movielens.exists():
        for seed in range(few_seeds):
            models = (*BASELINES, *NEURAL)
            studies.append(Study("movielens", "all", "first stage", seed, movielens, models))
    return studies


def select(
    studies: Sequence[Study], tracks: Sequence[str] = (), models: Sequence[str] = ()
) -> list[Study]:
    """Return the studies of these tracks with only these models, without studies that have none.

    A track is "SPLIT, TRACK", such as "warm, stand-alone". No tracks or models stand for all.
    Raises ConfigError for a name that no study has.
    """
    for option, chosen, names in (
        ("--tracks", tracks, {f"{study.split}, {study.track}" for study in studies}),
        ("--models", models, {name for study in studies for name in study.models}),
    ):
        for name in chosen:
            if name not in names:
                listed = "; ".join(sorted(names))
                raise ConfigError(f"{option}: must be one of {listed}, got {name!r}")
    selected = [
        dataclasses.replace(
            study, models=tuple(name for name in study.models if not models or name in models)
        )
        for study in studies
        if not tracks or f"{study.split}, {study.track}" in tracks
    ]
    return [study for study in selected if study.models]


def smoke_studies(studies: list[Study]) -> list[Study]:
    """Return one study with a model of each kind, small enough for a test."""
    models = ("random order", "LambdaMART", "transformer host", "transformer EGLR", "gru EGLR",
              "zero token", "best of M", "second evaluator")  # fmt: skip
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
