"""Train hosts and EGLR in the simulated environment and compare their slates with the best.

Every (host, seed) leaves its results in the cache, so an interrupted report resumes.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.dataset import Dataset
from model.data.lists import Lists
from model.learning import checkpoint
from model.learning.policy import Policy
from model.learning.train import Run, train
from model.network.config import Config
from model.study.click_model import ClickModel, ClickModelReward, appeals_and_topics
from model.study.grid import save
from model.study.slates import rank_greedily

Array = np.ndarray[Any, Any]
GAP_LISTS = 500  # test lists with gaps; a gap tries all continuations of every choice
# Rewarded by the click model, a plain host first trains for this multiple of the later rounds.
HEAD_START = 2
QUANTILES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of entropy; each gives a threshold


def gaps(click_model: ClickModel, appeal: Array, topic: Array, slate: Array) -> Array:
    """Return the loss of choosing the second-best next item instead of the best, float [R, K].

    `slate` gives the items chosen before. Next items are compared by their best continuation. A
    small gap is an ambiguous choice.
    """
    rows, size = appeal.shape
    differences = np.zeros(slate.shape)
    for k in range(slate.shape[1]):
        value = np.full((rows, size), -np.inf)
        for order in itertools.permutations(range(size - k), slate.shape[1] - k):
            left = np.argsort(_taken(slate[:, :k], size), axis=1, kind="stable")[:, : size - k]
            tail = left[:, list(order)]
            worth = click_model.expected_clicks(
                appeal, topic, np.concatenate([slate[:, :k], tail], axis=1)
            )
            index = np.arange(rows), tail[:, 0]
            value[index] = np.maximum(value[index], worth)
        ordered = np.sort(value, axis=1)
        differences[:, k] = ordered[:, -1] - ordered[:, -2]
    return differences


def _taken(prefix: Array, size: int) -> Array:
    """Mark the candidates in the prefixes int [R, k], bool [R, size]."""
    return np.asarray((prefix[:, :, None] == np.arange(size)).any(axis=1))


def train_evaluator(config: Config, data: Path, directory: Path) -> None:
    """Train the evaluator that rewards all hosts of one seed."""
    torch.set_num_threads(1)
    Run(config, data, directory, None).run(stop_before="warm_start")


def train_cell(config: Config, data: Path, directory: Path, evaluator_run: Path | None) -> None:
    """Train plain host and EGLR of one host and seed; write clicks and entropies of test slates.

    A plain host is trained to the end. From there it continues once as it is and once with
    reasoning plugged in, through the same rounds of GRPO on the same requests. The evaluator of
    `evaluator_run` rewards them, or the click model if that is None.
    """
    torch.set_num_threads(1)
    directory.mkdir(parents=True, exist_ok=True)
    no_reasoning = dataclasses.replace(config.reasoning, budget=0)
    plain = dataclasses.replace(config, reasoning=no_reasoning)
    dataset, click_model = Dataset(data), ClickModel()
    appeal, topic = appeals_and_topics(dataset, "test")
    valid, test = dataset.lists(["valid"]), dataset.lists(["test"])
    rewards = None if evaluator_run else ClickModelReward(dataset.featuriser, click_model)
    head_start = 1 if evaluator_run else HEAD_START
    grpo = dataclasses.replace(plain.grpo, epochs=head_start * plain.grpo.epochs)
    start = dataclasses.replace(plain, grpo=grpo)
    train(start, dataset, directory / "start", evaluator_run, reward_model=rewards)
    for name, variant in {"host": plain, "eglr": config}.items():
        if (directory / f"{name}.npz").exists():
            continue
        train(
            variant,
            dataset,
            directory / name,
            directory / "start",
            plug_in=True,
            reward_model=rewards,
        )
        trained = checkpoint.load(directory / name)
        slate, figures = rank_greedily(trained, test, keep_entropies=True)
        first = slice(GAP_LISTS)
        figures["gap"] = gaps(click_model, appeal[first], topic[first], slate[first])
        figures["entropies_before"] = figures["entropies_before"][first]
        figures["worth"] = click_model.expected_clicks(appeal, topic, slate)
        if name == "eglr":
            slates, figures["gate_steps"] = rank_behind_thresholds(trained, valid, test)
            figures["gate_worth"] = np.array(
                [click_model.expected_clicks(appeal, topic, s) for s in slates]
            )
        save(directory / f"{name}.npz", figures)


def rank_behind_thresholds(
    trained: checkpoint.Trained, valid: Lists, test: Lists
) -> tuple[Array, Array]:
    """Rank with EGLR's weights behind other thresholds: slates int64 [Q, R, K], mean steps [Q].

    Each threshold is one of QUANTILES of the entropies on validation lists without reasoning.
    """
    policy = Policy(trained.config, trained.generator, trained.threshold, trained.share)
    entropies, budget = policy.entropies(valid), trained.config.reasoning.budget
    slates, steps = [], []
    for quantile in QUANTILES:
        # A gate opens above its threshold, so the lowest entropy would not open it.
        policy.threshold = float(torch.quantile(entropies, quantile)) if quantile else -1.0
        decoded = policy.greedy_slates(test, budget if quantile < 1 else 0)
        slates.append(torch.cat([d.slate for d in decoded]).numpy())
        steps.append(torch.cat([d.steps for d in decoded]).sum(dim=1).double().mean().item())
    return np.array(slates), np.array(steps)
