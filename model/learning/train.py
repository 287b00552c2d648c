"""Train evaluator and generator in the stages of one resumable run.

    evaluator     BCE on logged feedback
    warm_start    the generator learns the logged likes, list-wise, with reasoning on
    search        optional: the generator imitates a search under the frozen evaluator
    grpo          reward = utility under the frozen evaluator, reasoning steps replayed

The entropy threshold is measured anew after each epoch of the generator. State is saved after each
epoch, and each epoch derives its seed from (seed, stage, epoch): a resumed run ends in the same
weights as an uninterrupted one. Ranks started by torchrun share each batch and each validation
(model.learning.distributed); only rank 0 writes files.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.data.dataset import Dataset
from model.data.errors import DataError
from model.learning import checkpoint, drift
from model.learning.accelerator import Accelerator
from model.learning.checkpoint import CheckpointError
from model.learning.continuation import open_data, take_over
from model.learning.distributed import (
    all_gather,
    all_reduce,
    broadcast,
    disjoint_shards,
    rank,
    shard,
    world_size,
)
from model.learning.grpo import Grpo
from model.learning.imitation import Imitation
from model.learning.objectives import Objective
from model.learning.policy import Batch, Policy, evaluator_loss
from model.learning.reuse import reuse
from model.learning.stages import Stage, check_batches, epoch_seed, supervised_stage
from model.learning.state import DONE, Metrics, RunState, current_commit
from model.learning.teacher import TeacherFiles, teach, teacher_digest
from model.learning.validation import Validation
from model.network.config import Config
from model.network.evaluator import RewardModel


class Run:
    """One training run in one directory."""

    def __init__(
        self,
        config: Config,
        data: Path | Dataset,
        directory: Path,
        start: Path | None,
        accelerator: Accelerator | None = None,
        plug_in: bool = False,
        reward_model: RewardModel | None = None,
        continued: bool = False,
    ) -> None:
        positions = 0
        if isinstance(data, Path):
            dataset, positions = open_data(data, directory, start if continued else None)
        else:
            dataset = data
        self.config, self.directory, self.data = config, directory, dataset.directory
        self.accelerator = accelerator or Accelerator()
        self.device = self.accelerator.device
        check_batches(config)
        directory.mkdir(parents=True, exist_ok=True)
        self.featuriser = dataset.featuriser
        self._read_lists(dataset)
        torch.manual_seed(config.seed)
        positions = max(positions, self.train.longest)
        self.generator, self.evaluator = checkpoint.build(config, self.featuriser, positions)
        self.generator.to(self.device)
        self.evaluator.to(self.device)
        # It rewards the generator and selects the epoch.
        self.reward_model: RewardModel = reward_model or self.evaluator
        self.policy = Policy(config, self.generator, math.inf)
        self.objective = None
        if config.objectives is not None:
            self.objective = Objective(config, self.featuriser, self.reward_model)
        networks = self.policy, self.evaluator, self.reward_model, self.objective
        self.validation = Validation(self.all_valid, self.valid, *networks)
        # "reference" is the generator when GRPO starts, "best" the best epoch of the stage so far.
        self.copies: dict[str, dict[str, Tensor]] = {}
        self.state = RunState(
            config=config,
            positions=positions,
            data=self.data.as_posix(),
            data_digest=dataset.digest(),
            commit=current_commit(),
        )
        self._optimizer_state: dict[str, Tensor] = {}
        self._writer: SummaryWriter | None = None
        if (directory / checkpoint.CHECKPOINT).exists():
            self._resume()
        elif start is not None and continued:
            schema = self.featuriser.schema
            take_over(start, self.state, schema, self.train, self.generator, self.evaluator)
        elif start is not None:
            reuse(start, plug_in, self.state, self.generator, self.evaluator)
        elif reward_model is not None:
            self.state.stage, self.state.shared_seconds = "warm_start", 0.0
        if not rank():
            self._write_features_and_log()

    def _read_lists(self, dataset: Dataset) -> None:
        """Read train and valid lists. Raises DataError where too few of them have an order.

        The evaluator learns from every list, the generator from those with a positive and a
        negative; each is validated on lists of the kind that it learns from.
        """
        limit = self.config.train_lists
        shards = disjoint_shards(len(dataset.shards))
        self.disjoint = shards is not None
        if limit is not None and self.disjoint:
            limit = len(shard(np.arange(limit)))
        self.train = dataset.lists(["train"], limit, shards=shards)
        self.all_valid = dataset.lists(["valid"], self.config.train_lists)
        self.valid = self.all_valid.rankable()
        self.rankable = self.train.rankable()
        for name, lists in (("train", self.rankable), ("valid", self.valid)):
            few = len(lists) < world_size()
            if self.disjoint and name == "train":  # every rank must raise
                few = bool((all_gather(torch.tensor([len(lists)])) == 0).any())
            if few:
                rule = (
                    f"must have at least one {name} list with {lists.scale.order} for each "
                    f"of {world_size()} processes; by default the last list of a user is test, the "
                    "one before it valid, and the others train"
                )
                raise DataError(self.data, rule, value=len(lists))

    def _write_features_and_log(self) -> None:
        """Save featuriser and distributions; cut the log to the epochs of the checkpoint."""
        self.featuriser.save(self.directory)
        if not self.state.saves or not (self.directory / drift.FILE).exists():
            drift.save(self.directory, drift.count_rows(self.train, self.featuriser.schema))
        log = self.directory / "metrics.jsonl"
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        lines = text.splitlines()[: self.state.lines]
        log.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _resume(self) -> None:
        """Continue the run that the directory holds."""
        state, tensors = checkpoint.read(self.directory)
        if state.config != self.config:
            raise CheckpointError(
                f"{self.directory}: holds a run with another configuration; "
                "choose another --out or remove the directory"
            )
        if state.data_digest != self.state.data_digest:
            raise CheckpointError(
                f"{self.directory}: holds a run on other data (digest {state.data_digest}) than "
                f"{self.data} (digest {self.state.data_digest}); choose another --out or remove "
                "the directory"
            )
        self.state = state
        if state.threshold is not None:
            self.policy.threshold, self.policy.share = state.threshold, state.share
        checkpoint.restore(self.generator, tensors, "generator.")
        checkpoint.restore(self.evaluator, tensors, "evaluator.")
        for key, tensor in tensors.items():
            kind, name = key.split(".", 1)
            if kind not in ("generator", "evaluator", "optimizer"):
                self.copies.setdefault(kind, {})[name] = tensor
        self._optimizer_state = {k: v for k, v in tensors.items() if k.startswith("optimizer.")}

    def run(self, stop_before: str = DONE) -> RunState:
        """Train the stages that are left, in order; stop before the stage `stop_before`."""
        stages = {
            "evaluator": self.evaluator_stage,
            "warm_start": self.warm_start_stage,
            "search": self.search_stage,
            "grpo": self.grpo_stage,
        }
        self._writer = None if rank() else SummaryWriter(str(self.directory / "events"))
        try:
            while self.state.stage not in (DONE, stop_before):
                self.train_stage(stages[self.state.stage]())
                self._finish_stage()
        finally:
            if self._writer is not None:
                self._writer.close()
        return self.state

    def evaluator_stage(self) -> Stage:
        """Describe the evaluator's stage: BCE over every list."""
        return supervised_stage(
            "evaluator",
            self.evaluator,
            self.config.evaluator,
            self.train,
            lambda batch: evaluator_loss(self.evaluator, batch, self.config.slate_length),
            self.validation.evaluator_score,
            self.accelerator,
            self.disjoint,
        )

    def warm_start_stage(self) -> Stage:
        """Describe the warm start: the pointer loss over lists with an order."""
        budget = self.config.reasoning.budget
        return supervised_stage(
            "warm_start",
            self.generator,
            self.config.warm_start,
            self.rankable,
            lambda batch: self.policy.supervised_loss(batch, budget),
            self.validation.generator_score,
            self.accelerator,
            self.disjoint,
        )

    def search_stage(self) -> Stage:
        """Describe learning from search: the teacher's slates come first, or from their files."""
        settings, objective = self.config.search, self.objective
        assert settings is not None
        assert objective is not None
        self.evaluator.eval()
        files = None
        if not self.disjoint:
            parts = self.reward_model, self.rankable, self.state.data_digest
            digest = teacher_digest(self.config, *parts)
            files = TeacherFiles(self.directory / "teacher", digest)
        lessons = teach(objective, settings, self.rankable, self.device, files)
        return supervised_stage(
            "search",
            self.generator,
            settings,
            self.rankable,
            Imitation(settings, self.policy, objective, lessons).loss,
            self.validation.generator_score,
            self.accelerator,
            self.disjoint,
        )

    def grpo_stage(self) -> Stage:
        """Describe GRPO: rounds of sampling, with the generator as it is now for reference."""
        settings = self.config.grpo
        self.evaluator.eval()
        if "reference" not in self.copies:
            self._keep("reference", self.generator)
        reference = checkpoint.build(self.config, self.featuriser, self.state.positions)[0].eval()
        reference.to(self.device).load_state_dict(self.copies["reference"])
        parts = self.reward_model, self.accelerator, self.objective
        grpo = Grpo(settings, self.policy, reference, *parts)
        return Stage(
            "grpo",
            self.generator,
            settings,
            self.rankable,
            settings.samples_per_epoch,
            grpo.update,
            self.validation.generator_score,
            disjoint=self.disjoint,
        )

    def train_stage(self, stage: Stage) -> None:
        """Train the epochs that are left of a stage; end with the best epoch's weights."""
        optimizer, state = stage.optimizer(), self.state
        if self._optimizer_state:
            checkpoint.restore_optimizer(optimizer, self._optimizer_state)
        calibrates = stage.module is self.generator
        if calibrates and state.epoch == 0:
            self.calibrate()
        if state.best is None and (
            stage.name in ("search", "grpo") or state.continued_from is not None
        ):
            state.best, validation = broadcast(stage.validate())  # no epoch may improve on it
            if state.continued_from is not None:
                state.validation[stage.name] = validation
            self._keep("best", stage.module)
        for epoch in range(state.epoch, stage.settings.epochs):
            began = time.monotonic()
            sums = self._train_epoch(stage, optimizer, epoch)
            optimizer.decay_rows()
            if calibrates:
                # Entropies fall while the generator learns. A threshold measured after each epoch
                # lets the same share of positions reason in training and in service.
                self.calibrate()
            score, validation = broadcast(stage.validate())
            state.seconds += time.monotonic() - began
            if state.best is None or score > state.best:
                state.best = score
                state.validation[stage.name] = validation
                self._keep("best", stage.module)
            state.epoch = epoch + 1
            validation = {f"valid_{name}": value for name, value in validation.items()}
            self._log(stage.name, epoch, sums | validation)
            self._save(optimizer)
        stage.module.load_state_dict(self.copies["best"])
        if calibrates:
            self.calibrate()

    def _train_epoch(self, stage: Stage, optimizer: Optimizer, epoch: int) -> Metrics:
        """Make the updates of one epoch; returns the means of their metrics."""
        seed = epoch_seed(self.config.seed, stage.name, epoch)
        # Every rank draws an order by the same seed, but dropout and samples by its own.
        torch.manual_seed(seed + rank())
        order = np.random.default_rng(seed).permutation(len(stage.lists))
        steps = stage.steps
        sums: Metrics = {}
        title = f"{stage.name} {epoch + 1}/{stage.settings.epochs}"
        bar = tqdm(range(steps), title, leave=False, disable=True if rank() else None)
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate(epoch, step)
            batch = Batch(stage.lists, stage.rows(order, step), self.device)
            for name, value in stage.update(optimizer, batch).items():
                sums[name] = sums.get(name, 0.0) + value / steps
            scale = world_size() * steps / (step + 1)
            bar.set_postfix({k: f"{v * scale:.4f}" for k, v in sums.items()})
        values = torch.tensor([*sums.values()], dtype=torch.float64, device=self.device)
        return dict(zip(sums, all_reduce(values).tolist(), strict=True))

    def _finish_stage(self) -> None:
        """Move on to the next stage and save; after the last one, validate the result."""
        stage = self.state.stage
        if stage == "evaluator":
            self.state.shared_seconds = self.state.seconds
        stages = self.config.stages
        following = (*stages[1:], DONE)[stages.index(stage)]
        if following == DONE:
            self.state.validation["final"] = broadcast(self.validation.generator_score())[1]
        self.state.begin(following)
        self.copies.pop("best", None)
        self._optimizer_state = {}
        self._save()

    def calibrate(self) -> None:
        """Set the entropy threshold from the generator's entropies without reasoning.

        For a control, also set the share of the steps that the gate with this threshold takes.
        """
        policy, validation = self.policy, self.validation
        policy.threshold = self.state.threshold = broadcast(validation.threshold())
        if self.config.reasoning.gate not in ("entropy", "normalised"):
            policy.share = self.state.share = broadcast(validation.entropy_share())

    def _keep(self, name: str, module: nn.Module) -> None:
        self.copies[name] = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def _save(self, optimizer: Optimizer | None = None) -> None:
        self.state.saves += 1
        if rank():
            return
        tensors = {
            **checkpoint.collect(self.generator, "generator."),
            **checkpoint.collect(self.evaluator, "evaluator."),
            **{f"{k}.{name}": t for k, copy in self.copies.items() for name, t in copy.items()},
        }
        if optimizer is not None:
            tensors.update(checkpoint.collect_optimizer(optimizer))
        checkpoint.write(self.directory, self.state, tensors)

    def _log(self, stage: str, epoch: int, metrics: Metrics) -> None:
        self.state.lines += 1
        if self._writer is None:
            return
        line = {"stage": stage, "epoch": epoch + 1, **{k: round(v, 6) for k, v in metrics.items()}}
        with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in metrics.items():
            self._writer.add_scalar(f"{stage}/{name}", value, epoch + 1)
        tqdm.write(" ".join(f"{key} {value}" for key, value in line.items()))


def train(
    config: Config,
    data: Path | Dataset,
    directory: Path,
    start: Path | None = None,
    accelerator: Accelerator | None = None,
    plug_in: bool = False,
    reward_model: RewardModel | None = None,
    continued: bool = False,
) -> RunState:
    """Train, or finish training, in `directory`.

    Args:
        start: a finished run on the same data whose evaluator is taken over.
        plug_in: take over the generator of `start` too, and continue after the warm start.
        reward_model: replaces the evaluator, which then is not trained.
        continued: `start` is a finished run on any data; all its weights are taken over.

    Raises CheckpointError when `start` does not fit, or `directory` holds another run.
    """
    run = Run(config, data, directory, start, accelerator, plug_in, reward_model, continued)
    return run.run()
