"""Stages of training as data: module, lists, update, validation and learning rate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.data.lists import Lists
from model.learning.accelerator import Accelerator
from model.learning.distributed import all_gather, shard, world_size
from model.learning.optimizer import RowAdamW
from model.learning.policy import Batch, descend
from model.learning.state import Metrics
from model.network.config import Config, ConfigError, GrpoConfig, StageConfig
from model.network.objectives_config import SearchConfig

Update = Callable[[Optimizer, Batch], Metrics]
Validate = Callable[[], tuple[float, Metrics]]


@dataclass(frozen=True)
class Stage:
    """One stage: a module, the lists that it learns from, an update and a validation.

    `update` makes one or more gradient steps on a batch; its metrics add up over all processes.
    `validate` returns the score that selects the epoch, higher is better, and metrics to log.
    With `disjoint` lists, other ranks have others.
    """

    name: str  # of Config.stages
    module: nn.Module
    settings: StageConfig | GrpoConfig | SearchConfig
    lists: Lists
    steps: int  # updates per epoch
    update: Update
    validate: Validate
    optimizer_type: type[RowAdamW] = RowAdamW
    disjoint: bool = False

    def rows(self, order: np.ndarray[Any, Any], step: int) -> np.ndarray[Any, Any]:
        """Return the numbers of this rank's lists in a batch, by the order of an epoch."""
        size = self.settings.batch
        if self.disjoint:
            part = len(shard(np.arange(size)))
            return np.take(order, range(step * part, (step + 1) * part), mode="wrap")
        return shard(np.take(order, range(step * size, (step + 1) * size), mode="wrap"))

    def optimizer(self) -> RowAdamW:
        """Return a fresh optimizer over the module's parameters."""
        return self.optimizer_type(
            self.module.parameters(), self.settings.learning_rate, self.settings.weight_decay
        )

    def learning_rate(self, epoch: int, step: int) -> float:
        """Return the rate of an update: linear warm-up over one epoch, cosine to a tenth."""
        done = epoch * self.steps + step + 1
        progress = done / (self.settings.epochs * self.steps)
        warm = min(1.0, done / self.steps)
        cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
        return self.settings.learning_rate * warm * cosine


def supervised_stage(
    name: str,
    module: nn.Module,
    settings: StageConfig | SearchConfig,
    lists: Lists,
    loss_of: Callable[[Batch], Tensor],
    validate: Validate,
    accelerator: Accelerator,
    disjoint: bool = False,
) -> Stage:
    """Describe a stage that descends a loss, as many batches per epoch as the lists fill."""

    def update(optimizer: Optimizer, batch: Batch) -> Metrics:
        module.train()
        with accelerator.autocast():
            loss = loss_of(batch)
        descend(optimizer, module, loss)
        return {"loss": loss.item()}

    total = int(all_gather(torch.tensor([len(lists)])).sum()) if disjoint else len(lists)
    steps = max(1, total // settings.batch)
    return Stage(name, module, settings, lists, steps, update, validate, disjoint=disjoint)


def check_batches(config: Config) -> None:
    """Raise ConfigError for a batch with fewer requests than processes."""
    for stage in config.stages:
        size = getattr(config, stage).batch
        if size < world_size():
            rule = f"must hold at least one request for each of {world_size()} processes"
            raise ConfigError(f"{stage}.batch: {rule}, got {size}")


def epoch_seed(seed: int, stage: str, epoch: int) -> int:
    """Derive the seed of one epoch, so that a resumed run draws what an uninterrupted one does."""
    digest = hashlib.sha256(f"{seed}/{stage}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
