"""What the report trains and ranks: studies of cells, each cell cached in one file.

A study is a data set in one split and track with one seed; its cells share the data set in memory
and the evaluator, and run one after another in a process of their own. Test labels are read once
per finished model, to be counted, never to choose anything.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.data.metrics import slate_metrics
from model.learning import checkpoint
from model.learning.checkpoint import Trained
from model.learning.machine import in_processes
from model.learning.policy import Batch, Policy
from model.learning.train import Run, train
from model.network.config import Config, from_dict
from model.network.evaluator import Evaluator
from model.network.reasoning import sampler
from model.study import baselines, first_stage, neural_baselines

Array = np.ndarray[Any, Any]
Overrides = Mapping[str, Mapping[str, Any]]

# What distinguishes each trained model from the configuration, per section.
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
# What was tried to make reasoning worth more; reported beside the controls, whatever came of it.
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
    # Of interest for its cost: an attention of one head folds into its memory
    # (export/graph/lower.py).
    "one head": {"network": {"heads": 1}},
    "one head, stop gradient": {"network": {"heads": 1}, "reasoning": {"stop_gradient": True}},
}
BASELINES = ("random order", "shown order", "item like rate", "item logit", "LambdaMART",
             "list-wise MLP", "PRM", "NAR4Rec", "Seq2Slate", "Seq2Slate REINFORCE")  # fmt: skip
FEW = ("random order", "shown order", "item like rate", "LambdaMART")
SLATES = (1, 2, 4, 8, 16)  # M of best-of-M
STUDY = "study.json"  # what the cells beside it are of


@dataclass(frozen=True)
class Study:
    """One data set, split, track and seed, and the cells to fill for it."""

    dataset: str
    split: str
    track: str  # "stand-alone" or "first stage"
    seed: int
    data: Path
    models: tuple[str, ...]

    def directory(self, cache: Path) -> Path:
        """Where its cells lie."""
        return cache / self.dataset / self.split / self.track.replace(" ", "-") / f"seed{self.seed}"

    @property
    def label(self) -> dict[str, str]:
        """What it is called in the report's JSON."""
        return {"dataset": self.dataset, "split": self.split, "track": self.track}


def studies(ranklens: Path, movielens: Path, seeds: int) -> list[Study]:
    """All of them, the main comparison first; `seeds` on the warm split, three elsewhere."""
    most, some = seeds, min(seeds, 3)
    everything = (*BASELINES, *NEURAL, "second evaluator")
    essence = (*FEW, "transformer host", "transformer EGLR", "gru host", "gru EGLR")
    plan = [
        *((seed, "warm", "stand-alone", everything) for seed in range(most)),
        *((seed, "warm", "first stage", everything) for seed in range(most)),
        *((seed, "cold", "stand-alone", everything) for seed in range(some)),
        *((seed, "cold", "first stage", everything) for seed in range(some)),
        *((s, "warm", "stand-alone", ("best of M", *CONTROLS, *IDEAS)) for s in range(some)),
        *((s, "metarank", "stand-alone", essence) for s in range(some)),
    ]
    found = []
    for seed, split, track, models in plan:
        data = ranklens / (split if track == "stand-alone" else f"{split}-first-stage")
        found.append(Study("ranklens", split, track, seed, data, models))
    if movielens.exists():
        for seed in range(some):
            models = (*BASELINES, *NEURAL)
            found.append(Study("movielens", "all", "first stage", seed, movielens, models))
    return found


def smoke(found: list[Study]) -> list[Study]:
    """One study with a model of each kind: what a test can wait for."""
    models = ("random order", "LambdaMART", "transformer host", "transformer EGLR", "gru EGLR",
              "zero token", "best of M", "second evaluator")  # fmt: skip
    return [dataclasses.replace(found[0], models=models)]


def overridden(config: Config, overrides: Overrides) -> Config:
    """The configuration with some fields of its sections replaced.

    Another network is the generator's only: all cells of a study share one evaluator.
    """
    sections = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in overrides.items()
    }
    if "network" in overrides:
        sections["evaluator_network"] = config.evaluator_network or config.network
    return dataclasses.replace(config, **sections)


def fill(config: Config, found: list[Study], cache: Path) -> None:
    """Fill every cell that is not yet in the cache; a study on each core."""
    # Each wave needs what the one before made: data with a first stage, runs to compare with.
    waves: list[list[Callable[[], None]]] = [[], [], []]
    origins = {}
    for study in found:
        job = functools.partial(fill_study, config, study, cache)
        origin = study.data.with_name(study.data.name.removesuffix("-first-stage"))
        if "best of M" in study.models and len(found) > 1:
            waves[2].append(job)
        elif origin == study.data:
            waves[0].append(job)
        else:
            waves[1].append(job)
            if not first_stage.is_of(study.data, origin):
                origins[study.data] = origin
    scores = [
        functools.partial(first_stage.first_stage, origin, data) for data, origin in origins.items()
    ]
    waves[0] = [*scores, *waves[0]]
    in_processes([("studies", wave) for wave in waves])


def fill_study(config: Config, study: Study, cache: Path) -> None:
    """The cells of one study that are not there, one after another.

    Raises CheckpointError where the cells that are there have another configuration or other data.
    """
    torch.set_num_threads(1)
    directory = study.directory(cache)
    directory.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, seed=study.seed)
    dataset = Dataset(study.data)
    claim(directory, config, dataset)
    pending = [m for m in study.models if not (directory / f"{m}.npz").exists()]
    if not pending:
        return
    room = Room(config, study, directory, dataset)
    for model in pending:
        save(directory / f"{model}.npz", room.cell(model))


def claim(directory: Path, config: Config, dataset: Dataset) -> None:
    """Write down what the cells of a directory are of, or check it."""
    path, digest = directory / STUDY, dataset.digest()
    if path.exists():
        check(directory, config, digest)
        return
    mine = {"config": checkpoint.config_dict(config), "data_digest": digest}
    path.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


def check(directory: Path, config: Config, digest: str | None = None) -> None:
    """Raises CheckpointError where a directory has cells of something else.

    A field that the configuration had not yet when they were made counts as its default.
    """
    path = directory / STUDY
    if not path.exists():
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    same = from_dict(Config, there["config"]) == config
    if not same or digest not in (None, there["data_digest"]):
        raise checkpoint.CheckpointError(
            f"{path}: the cells beside it are of another configuration or other data; "
            "remove them or choose another --cache"
        )


class Room:
    """What the cells of a study share: data set, lists, evaluator."""

    def __init__(self, config: Config, study: Study, directory: Path, dataset: Dataset) -> None:
        self.config, self.study, self.directory, self.dataset = config, study, directory, dataset
        self.test = self._lists("test")

    def _lists(self, split: str) -> Lists:
        return self.dataset.lists([split], self.config.train_lists).rankable()

    def cell(self, model: str) -> dict[str, Array]:
        """Per-list metrics [R] of one model on test lists, and what else it has to show."""
        if model == "best of M":
            return self.best_of_m()
        if model == "second evaluator":
            return self.second_opinion()
        began, extra = time.monotonic(), {}
        if model in BASELINES:
            slate = self.baselines()[model]()
        else:
            overrides = (NEURAL | CONTROLS | IDEAS)[model]
            slate, extra = neural_slates(self.trained(model, overrides), self.test)
        extra.setdefault("train_seconds", np.array(time.monotonic() - began))
        return {**self.measured(slate), **extra, "slate": slate.astype(np.int16)}

    def trained(self, model: str, overrides: Overrides) -> Trained:
        """Train, or finish training, one model; the first of a study trains the evaluator."""
        first = next(iter(NEURAL))
        start = None if model == first else self.directory / first
        if start is not None and not (start / checkpoint.CHECKPOINT).exists():
            self.trained(first, NEURAL[first])
        own = overridden(self.config, overrides)
        train(own, self.dataset, self.directory / model, start)
        return checkpoint.load(self.directory / model)

    def measured(self, slate: Array) -> dict[str, Array]:
        """Metrics per list [R] of slates [R, K], and what the evaluator thinks of them."""
        found = slate_metrics(slate, self.test.labels)
        evaluator = self.trained(*next(iter(NEURAL.items()))).evaluator
        return {**found, "utility": utilities(evaluator, self.test, slate)}

    def baselines(self) -> dict[str, Callable[[], Array]]:
        """How each baseline ranks the test lists."""
        length, seed = self.config.slate_length, self.study.seed
        vocabulary = self.dataset.featuriser.vocabulary_size
        names = [feature.name for feature in self.dataset.featuriser.schema.features]
        score = self.dataset.featuriser.column("score") if "score" in names else None

        def fitted(fit: Callable[..., Array], **more: Any) -> Callable[[], Array]:
            return lambda: fit(
                self._lists("train"), self._lists("valid"), self.test, length, seed, vocabulary,
                **more,
            )  # fmt: skip

        return {
            "random order": lambda: baselines.random_order(self.test, length, seed),
            "shown order": lambda: baselines.shown_order(self.test, length),
            "item like rate": lambda: baselines.item_like_rate(self.test, length, self.dataset),
            "item logit": lambda: baselines.item_logit(self.test, length, self.dataset, "test"),
            "LambdaMART": fitted(baselines.lambdamart),
            "list-wise MLP": fitted(neural_baselines.listwise_mlp),
            "PRM": fitted(neural_baselines.prm, score_column=score),
            "NAR4Rec": fitted(neural_baselines.nar4rec),
            "Seq2Slate": fitted(neural_baselines.seq2slate, reinforce_epochs=0),
            "Seq2Slate REINFORCE": fitted(neural_baselines.seq2slate),
        }

    def second_opinion(self) -> dict[str, Array]:
        """The second evaluator's utility [R] of every other model's slates, by model."""
        directory = self.directory / "second evaluator"
        evaluator = second_evaluator(self.config, self.dataset, directory)
        slates = {
            m: load(self.directory / f"{m}.npz")["slate"]
            for m in self.study.models
            if m in BASELINES or m in NEURAL
        }
        return {m: utilities(evaluator, self.test, slate) for m, slate in slates.items()}

    def best_of_m(self) -> dict[str, Array]:
        """Sample M slates and keep the one of the highest utility: metrics [S + 1, M, R].

        S = 0 is the plain host, the others EGLR trained for three steps, with that budget. Times
        are seconds per request, of lists decoded one at a time on one thread.
        """
        host = self.trained("transformer host", HOST)
        own = self.trained("transformer EGLR", {})
        found: dict[str, list[list[Any]]] = {}
        for budget in range(own.config.reasoning.budget + 1):
            trained = own if budget else host
            rows: dict[str, list[Any]] = {}
            for slates in SLATES:
                torch.manual_seed(self.study.seed)
                slate = pass_at_m(trained, host, self.test, budget, slates)
                metrics = slate_metrics(slate, self.test.labels)
                metrics["utility"] = utilities(host.evaluator, self.test, slate)
                metrics["seconds"] = seconds(trained, host, self.test, budget, slates)
                for name, values in metrics.items():
                    rows.setdefault(name, []).append(values)
            for name, column in rows.items():
                found.setdefault(name, []).append(column)
        return {name: np.array(values) for name, values in found.items()}


def second_evaluator(config: Config, dataset: Dataset, directory: Path) -> Evaluator:
    """Train, or finish training, an evaluator for reporting only: no model is rewarded by it.

    Another architecture (a GRU along the slate in place of attention, after the evaluator of GRN,
    arXiv 2104.00860) and another seed, on the same lists.
    """
    network = config.evaluator_network or config.network
    own = dataclasses.replace(
        config,
        seed=config.seed + 1_000,
        evaluator_network=dataclasses.replace(network, encoder_blocks=0, recurrent=True),
    )
    run = Run(own, dataset, directory, None)
    run.run(last="warm_start")
    return run.evaluator.eval()


@torch.no_grad()
def pass_at_m(
    trained: Trained, judge: Trained, lists: Lists, budget: int, slates: int, batch: int = 128
) -> Array:
    """The best by the judge's evaluator of `slates` sampled slates per list: int64 [R, K].

    One slate is the greedy one: what the service answers without sampling.
    """
    policy = Policy(trained.config, trained.generator, trained.threshold, trained.share)
    if slates == 1:
        return torch.cat([d.slate for d in policy.rank(lists, budget, batch)]).numpy()
    pick = sampler(trained.config.reasoning.recommend_temperature)
    found = []
    for start in range(0, len(lists), batch):
        b = Batch(lists, slice(start, start + batch))
        encoded = trained.generator.encode(b.numbers, b.tokens, b.mask)
        drawn = policy.decode(encoded, pick, budget, slates).slate
        embedded = judge.evaluator.embed(b.numbers, b.tokens).repeat_interleave(slates, 0)
        utility = judge.evaluator.utility(embedded, drawn).view(-1, slates)
        best = utility.argmax(dim=1)
        found.append(drawn.view(len(best), slates, -1)[torch.arange(len(best)), best])
    return torch.cat(found).numpy()


def seconds(trained: Trained, judge: Trained, lists: Lists, budget: int, slates: int) -> Array:
    """Time of each of the first 64 lists asked alone, float [64]; 8 more warm up."""
    found = []
    for row in range(min(len(lists), 72)):
        began = time.perf_counter()
        pass_at_m(trained, judge, lists.take([row]), budget, slates)
        found.append(time.perf_counter() - began)
    return np.array(found[8:])


@torch.no_grad()
def utilities(evaluator: Evaluator, lists: Lists, slate: Array) -> Array:
    """The evaluator's utility [R] of slates int64 [R, K] of these lists."""
    found = []
    for start in range(0, len(lists), 256):
        piece = slice(start, start + 256)
        b = Batch(lists, piece)
        embedded = evaluator.embed(b.numbers, b.tokens)
        found.append(evaluator.utility(embedded, torch.from_numpy(slate[piece].astype(np.int64))))
    return torch.cat(found).numpy()


def neural_slates(
    trained: Trained, test: Lists, keep_entropies: bool = False
) -> tuple[Array, dict[str, Array]]:
    """Greedy slates of a finished run, its steps [R] and entropies by position [K] (nats).

    `keep_entropies` adds those before reasoning of every list, [R, K].
    """
    policy = Policy(trained.config, trained.generator, trained.threshold, trained.share)
    torch.manual_seed(trained.config.seed)  # the random gate tosses coins
    decoded = policy.rank(test, trained.config.reasoning.budget)
    gather = {
        name: torch.cat([getattr(d, name) for d in decoded]).numpy()
        for name in ("slate", "steps", "entropy_before", "entropy_after")
    }
    more = {"entropies_before": gather["entropy_before"]} if keep_entropies else {}
    return gather["slate"], more | {
        "reasoning_steps": gather["steps"].sum(axis=1).astype(np.float64),
        "steps_by_position": gather["steps"].mean(axis=0),
        "entropy_before": gather["entropy_before"].mean(axis=0),
        "entropy_after": gather["entropy_after"].mean(axis=0),
        "threshold": np.array(trained.threshold),
        "validation": np.array(trained.info["validation"]["final"]["ndcg@10"]),
        # Whether an epoch of GRPO validated better than the start, or the start was kept.
        "grpo_kept": np.array(float("grpo" in trained.info["validation"])),
        "train_seconds": np.array(trained.info["seconds"]),
    }


def save(path: Path, arrays: dict[str, Array]) -> None:
    """Write and rename, so that an interrupted cell leaves no half file."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)


@functools.cache
def load(path: Path) -> dict[str, Array]:
    """A cell."""
    with np.load(path) as arrays:
        return dict(arrays)
