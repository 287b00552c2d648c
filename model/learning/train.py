"""Train evaluator and generator: three stages in one resumable run.

    evaluator     BCE on logged feedback
    warm_start    the generator learns the logged likes, list-wise, with reasoning on
    grpo          reward = utility under the frozen evaluator, gates replayed

The entropy threshold is measured anew after each epoch of the generator. State is saved after each
epoch, and each epoch seeds itself from (seed, stage, epoch): a run that was interrupted ends in the
same weights as one that was not. Processes started by torchrun share each batch and each validation
(model.learning.machine); the first alone writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.lists import Lists
from model.data.metrics import slate_metrics
from model.learning import checkpoint
from model.learning.grpo import Grpo
from model.learning.machine import Machine, agree, gather, processes, rank, share, total
from model.learning.policy import Batch, Policy, descend, evaluator_loss
from model.network.config import Config, ConfigError, GrpoConfig, StageConfig, from_dict
from model.network.evaluator import Judge

STAGES = ("evaluator", "warm_start", "grpo")
Metrics = dict[str, float]


class Run:
    """One training run in one directory."""

    def __init__(
        self,
        config: Config,
        data: Path | Dataset,
        directory: Path,
        start: Path | None,
        machine: Machine | None = None,
        plug_in: bool = False,
        judge: Judge | None = None,
    ) -> None:
        dataset = Dataset(data) if isinstance(data, Path) else data
        self.config, self.directory, self.data = config, directory, dataset.directory
        self.machine = machine or Machine()
        self.device = self.machine.device
        for stage in STAGES:
            if getattr(config, stage).batch < processes():
                rule = f"at least one request for each of {processes()} processes"
                raise ConfigError(f"{stage}.batch: {rule}, got {getattr(config, stage).batch}")
        directory.mkdir(parents=True, exist_ok=True)
        self.featuriser = dataset.featuriser
        self.train = dataset.lists(["train"], config.train_lists)
        # The evaluator learns from every list, the generator from those that tell of order; each is
        # selected on lists of the kind it learns from.
        self.all_valid = dataset.lists(["valid"], config.train_lists)
        self.valid = self.all_valid.rankable()
        self.rankable = self.train.rankable()
        for name, lists in (("train", self.rankable), ("valid", self.valid)):
            if len(lists) < processes():
                rule = (
                    f"at least one {name} list with a positive and a negative, to learn order from"
                    " (by default a user's last list is test, the one before valid, others train)"
                )
                raise DataError(self.data, rule, value=len(lists) or "none")
        self.own_valid = self.valid.take(share(np.arange(len(self.valid))))
        self.positions = self.train.longest
        torch.manual_seed(config.seed)
        networks = checkpoint.build(config, self.featuriser, self.positions)
        self.generator, self.evaluator = (network.to(self.device) for network in networks)
        self.judge: Judge = (
            judge or self.evaluator
        )  # what rewards the generator and selects its epoch
        self.policy = Policy(config, self.generator, math.inf)
        # Copies: "reference", the generator when GRPO starts; "best", of the stage so far.
        self.copies: dict[str, dict[str, Tensor]] = {}
        self.info: dict[str, Any] = {
            "stage": STAGES[0],
            "epoch": 0,
            "saves": 0,
            "lines": 0,
            "best": None,
            "threshold": None,
            "share": 0.0,
            "seconds": 0.0,
            "positions": self.positions,
            "data": self.data.as_posix(),
            "data_digest": dataset.digest(),
            "commit": commit(),
            "validation": {},
            "config": checkpoint.config_dict(config),
        }
        self._optimizer_state: dict[str, Tensor] = {}
        if (directory / checkpoint.CHECKPOINT).exists():
            self._resume()
        elif start is not None:
            self._start_from(start, plug_in)
        elif judge is not None:
            self.info.update(stage="warm_start", shared_seconds=0.0)
        if rank():
            return
        self.featuriser.save(directory)
        log = directory / "metrics.jsonl"
        lines = (
            log.read_text(encoding="utf-8").splitlines()[: self.info["lines"]]
            if (log.exists())
            else []
        )
        log.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _resume(self) -> None:
        info, tensors = checkpoint.read(self.directory)
        if from_dict(Config, info["config"]) != self.config:  # fields since added are at defaults
            raise checkpoint.CheckpointError(
                f"{self.directory}: holds a run with another configuration; "
                "choose another --out or remove it"
            )
        if info.get("data_digest") != self.info["data_digest"]:
            raise checkpoint.CheckpointError(
                f"{self.directory}: holds a run on other data than {self.data} has now; "
                "choose another --out or remove it"
            )
        self.info = {key: value for key, value in info.items() if key != "tensors"}
        self._restore(tensors)

    def _start_from(self, start: Path, plug_in: bool) -> None:
        """Take over the evaluator of a run on the same data; to plug in, its finished host too.

        Only the embeddings of reasoning steps that the host did not have stay as drawn.
        """
        info, tensors = checkpoint.read(start)
        if info.get("data_digest") != self.info["data_digest"]:
            # Its evaluator may have seen what is held out here, its tokens may mean other words.
            raise checkpoint.CheckpointError(
                f"{start}: holds a run on {info.get('data')} as it was then, which is other data "
                f"than {self.data} is now; start from a run on this data"
            )
        if "shared_seconds" not in info:
            raise checkpoint.CheckpointError(
                f"{start}: its evaluator is not finished; run the same train command again"
            )
        checkpoint.restore(self.evaluator, tensors, "evaluator.")
        self.info["stage"] = "warm_start"
        self.info["seconds"] = self.info["shared_seconds"] = info["shared_seconds"]
        found = info["validation"]
        self.info["validation"] = {k: v for k, v in found.items() if k == "evaluator"}
        if not plug_in:
            return
        there = from_dict(Config, info["config"])
        if info["stage"] != "done" or there.network != self.config.network:
            rule = f"a finished run with the network {self.config.network}"
            raise checkpoint.CheckpointError(f"{start}: to plug in takes {rule}")
        if there.reasoning.budget != self.config.reasoning.budget:
            own = self.generator.state_dict()["reason_step.weight"]
            tensors["generator.reason_step.weight"] = own
        checkpoint.restore(self.generator, tensors, "generator.")
        self.info["stage"] = "grpo"
        self.info["seconds"] = info["seconds"]

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        checkpoint.restore(self.generator, tensors, "generator.")
        checkpoint.restore(self.evaluator, tensors, "evaluator.")
        for key, tensor in tensors.items():
            kind, name = key.split(".", 1)
            if kind not in ("generator", "evaluator", "optimizer"):
                self.copies.setdefault(kind, {})[name] = tensor
        self._optimizer_state = {k: v for k, v in tensors.items() if k.startswith("optimizer.")}

    def _save(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.info["saves"] += 1
        if rank():
            return
        tensors = {
            **checkpoint.collect(self.generator, "generator."),
            **checkpoint.collect(self.evaluator, "evaluator."),
            **{f"{k}.{name}": t for k, copy in self.copies.items() for name, t in copy.items()},
        }
        if optimizer is not None:
            tensors.update(checkpoint.collect_optimizer(optimizer))
        checkpoint.write(self.directory, self.info, tensors)

    def _keep(self, name: str, module: nn.Module) -> None:
        self.copies[name] = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def run(self, last: str = "done") -> dict[str, Any]:
        """Train what is left to train, up to the stage `last`; returns the checkpoint's JSON."""
        budget = self.config.reasoning.budget
        if self.info["threshold"] is not None:
            self.policy.threshold, self.policy.share = self.info["threshold"], self.info["share"]
        stages: dict[str, Callable[[], None]] = {
            "evaluator": lambda: self._supervised(
                self.evaluator,
                self.config.evaluator,
                self.train,
                lambda batch: evaluator_loss(self.evaluator, batch, self.config.slate_length),
                self._validate_evaluator,
            ),
            "warm_start": lambda: self._supervised(
                self.generator,
                self.config.warm_start,
                self.rankable,
                lambda batch: self.policy.supervised_loss(batch, budget),
                lambda: self._validate(budget),
            ),
            "grpo": self.grpo,
        }
        self.writer = None if rank() else SummaryWriter(str(self.directory / "events"))
        try:
            while self.info["stage"] not in ("done", last):
                stage = self.info["stage"]
                stages[stage]()
                if stage == "evaluator":
                    self.info["shared_seconds"] = self.info["seconds"]
                following = (*STAGES[1:], "done")[STAGES.index(stage)]
                if following == "done":
                    self.info["validation"]["final"] = agree(self._validate(budget))[1]
                self.info.update(stage=following, epoch=0, best=None)
                self.copies.pop("best", None)
                self._optimizer_state = {}
                self._save()
        finally:
            if self.writer is not None:
                self.writer.close()
        return self.info

    def calibrate(self) -> None:
        """Set the entropy threshold from the host's own entropies, without reasoning.

        And, for a control, the share of the steps that the gate with this threshold takes.
        """
        reasoning, policy = self.config.reasoning, self.policy
        entropies = gather(policy.entropies(self.own_valid))
        threshold = torch.quantile(entropies, reasoning.entropy_quantile)
        policy.threshold = self.info["threshold"] = agree(float(threshold))
        if reasoning.gate not in ("entropy", "normalised"):
            decoded = policy.rank(self.own_valid, reasoning.budget, by_entropy=True)
            taken = gather(torch.cat([d.gates.flatten(1).float().mean(dim=1) for d in decoded]))
            policy.share = self.info["share"] = agree(float(taken.mean()))

    def _epochs(
        self,
        module: nn.Module,
        settings: StageConfig | GrpoConfig,
        lists: Lists,
        steps: int,
        update: Callable[[torch.optim.Optimizer, Batch], Metrics],
        validate: Callable[[], tuple[float, Metrics]],
    ) -> None:
        """The loop of every stage; ends with the weights of the best validation score."""
        stage, epochs, learning_rate = self.info["stage"], settings.epochs, settings.learning_rate
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=learning_rate, weight_decay=settings.weight_decay
        )
        if self._optimizer_state:
            checkpoint.restore_optimizer(optimizer, self._optimizer_state)
        if stage != "evaluator" and self.info["epoch"] == 0:
            self.calibrate()
        if self.info["best"] is None and stage == "grpo":
            self.info["best"] = agree(validate())[0]  # the start may stay the best there is
            self._keep("best", module)
        for epoch in range(self.info["epoch"], epochs):
            began = time.monotonic()
            digest = hashlib.sha256(f"{self.config.seed}/{stage}/{epoch}".encode()).digest()
            seed = int.from_bytes(digest[:4], "big")
            # The same order everywhere; dropout and samples of each process are its own.
            torch.manual_seed(seed + rank())
            order = np.random.default_rng(seed).permutation(len(lists))
            sums: dict[str, float] = {}
            name = f"{stage} {epoch + 1}/{epochs}"
            bar = tqdm(range(steps), name, leave=False, disable=rank() > 0)
            for step in bar:
                progress = (epoch * steps + step + 1) / (epochs * steps)
                warm = min(1.0, (epoch * steps + step + 1) / steps)
                rate = learning_rate * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                rows = range(step * settings.batch, (step + 1) * settings.batch)
                batch = Batch(lists, share(np.take(order, rows, mode="wrap")), self.device)
                for name, value in update(optimizer, batch).items():
                    sums[name] = sums.get(name, 0.0) + value / steps
                scale = processes() * steps / (step + 1)
                bar.set_postfix({k: f"{v * scale:.4f}" for k, v in sums.items()})
            sums = {name: self._total(value) for name, value in sums.items()}
            if stage != "evaluator":
                # Entropies fall while the generator learns; the gate is to open where they are
                # high among its own, from the first epoch to the service.
                self.calibrate()
            score, validation = agree(validate())
            self.info["seconds"] += time.monotonic() - began
            if self.info["best"] is None or score > self.info["best"]:
                self.info["best"] = score
                self.info["validation"][stage] = validation
                self._keep("best", module)
            self.info["epoch"] = epoch + 1
            self._log(stage, epoch, {**sums, **{f"valid_{k}": v for k, v in validation.items()}})
            self._save(optimizer)
        module.load_state_dict(self.copies["best"])
        if stage != "evaluator":
            self.calibrate()

    def _supervised(
        self,
        module: nn.Module,
        stage: StageConfig,
        lists: Lists,
        loss_of: Callable[[Batch], Tensor],
        validate: Callable[[], tuple[float, Metrics]],
    ) -> None:
        def update(optimizer: torch.optim.Optimizer, batch: Batch) -> Metrics:
            module.train()
            with self.machine.autocast():
                loss = loss_of(batch)
            descend(optimizer, module, loss)
            return {"loss": loss.item()}

        steps = max(1, len(lists) // stage.batch)
        self._epochs(module, stage, lists, steps, update, validate)

    @torch.no_grad()
    def _validate_evaluator(self) -> tuple[float, Metrics]:
        self.evaluator.eval()
        losses = []
        every = np.arange(len(self.all_valid))
        for start in range(0, len(every), 256):
            batch = Batch(self.all_valid, share(every[start : start + 256]), self.device)
            loss = evaluator_loss(self.evaluator, batch, self.config.slate_length)
            losses.append(loss.item())
        loss = self._total(float(np.mean(losses)))
        return -loss, {"loss": loss}

    def _validate(self, budget: int) -> tuple[float, Metrics]:
        """Greedy slates of validation lists: their NDCG@10 (or utility) selects the epoch."""
        torch.manual_seed(self.config.seed + rank())  # a gate at random tosses the same coins
        decoded = self.policy.rank(self.own_valid, budget)
        slate = torch.cat([d.slate for d in decoded])
        utility = gather(self._utility(slate))
        scores = slate_metrics(gather(slate).numpy(), self.valid.labels)
        metrics = {name: float(values.mean()) for name, values in scores.items()}
        steps = gather(torch.cat([d.steps for d in decoded])).sum(dim=1)
        metrics["steps"] = float(steps.float().mean())
        metrics["utility"] = float(utility.mean())
        return metrics[self.config.selection], metrics

    @torch.no_grad()
    def _utility(self, slate: Tensor) -> Tensor:
        """The judge's utility [R] of slates [R, K] of this process's validation lists."""
        self.evaluator.eval()
        found = []
        for start in range(0, len(slate), 256):
            batch = Batch(self.own_valid, slice(start, start + 256), self.device)
            embedded = self.judge.embed(batch.numbers, batch.tokens)
            found.append(self.judge.utility(embedded, slate[start : start + 256]))
        return torch.cat(found)

    def _total(self, value: float) -> float:
        """The sum over the processes."""
        return float(total(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def grpo(self) -> None:
        """The last stage: improve the generator against the frozen judge."""
        settings, budget = self.config.grpo, self.config.reasoning.budget
        self.evaluator.eval()
        if "reference" not in self.copies:
            self._keep("reference", self.generator)
        frozen = checkpoint.build(self.config, self.featuriser, self.positions)[0].eval()
        frozen.to(self.device).load_state_dict(self.copies["reference"])
        grpo = Grpo(settings, self.policy, frozen, self.judge, self.machine)
        self._epochs(
            self.generator,
            settings,
            self.rankable,
            settings.samples_per_epoch,
            grpo.update,
            lambda: self._validate(budget),
        )

    def _log(self, stage: str, epoch: int, metrics: Metrics) -> None:
        self.info["lines"] += 1
        if self.writer is None:
            return
        line = {"stage": stage, "epoch": epoch + 1, **{k: round(v, 6) for k, v in metrics.items()}}
        with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in metrics.items():
            self.writer.add_scalar(f"{stage}/{name}", value, epoch + 1)
        tqdm.write(" ".join(f"{key} {value}" for key, value in line.items()))


def commit() -> str:
    """The commit that trains, with -dirty where the tree differs; "unknown" outside a checkout."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"


def train(
    config: Config,
    data: Path | Dataset,
    directory: Path,
    start: Path | None = None,
    machine: Machine | None = None,
    plug_in: bool = False,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Train, or finish training, in `directory`; returns the checkpoint's JSON.

    `start` is a finished run whose evaluator is taken over; with `plug_in` its generator too, and
    GRPO goes on from there with this configuration's reasoning. Where the truth is known a `judge`
    stands in for the evaluator, and none is trained. Raises CheckpointError when `start` does not
    fit, or `directory` holds another run.
    """
    return Run(config, data, directory, start, machine, plug_in, judge).run()
