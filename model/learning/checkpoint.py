"""Checkpoints of a training run: tensors in safetensors, the rest in JSON, replaced atomically."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.learning.state import DONE, RunState
from model.network.config import Config
from model.network.evaluator import Evaluator
from model.network.generator import Generator
from service.engine.features.featuriser import Featuriser

CHECKPOINT = "checkpoint.json"


class CheckpointError(ValueError):
    """A checkpoint is missing, unfinished, or of another run."""


@dataclass(frozen=True)
class Trained:
    """A finished run, ready to evaluate or export; threshold and share as in Policy."""

    config: Config
    featuriser: Featuriser
    generator: Generator
    evaluator: Evaluator
    threshold: float
    share: float
    state: RunState


def build(config: Config, featuriser: Featuriser, positions: int) -> tuple[Generator, Evaluator]:
    """Initialise the networks for these features; `positions` is the longest shown list."""
    columns = (featuriser.numbers_width, featuriser.vocabulary_size)
    generator = Generator(config.network, *columns, config.slate_length, config.reasoning)
    discounted = config.utility == "discounted"
    network = config.evaluator_network or config.network
    evaluator = Evaluator(network, *columns, positions, discounted)
    for embedding in (generator.embed, evaluator.embed):
        embedding.table.sparse = featuriser.vocabulary_size >= config.sparse_vocabulary
    return generator, evaluator


def write(directory: Path, state: RunState, tensors: dict[str, Tensor]) -> None:
    """Save the tensors under a new name first, then the JSON that points to them.

    Tensors are saved from the CPU, so that a checkpoint loads on any machine.
    """
    name = f"state-{state.saves:05d}.safetensors"
    save_file(
        {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()},
        directory / name,
    )
    temporary = directory / (CHECKPOINT + ".tmp")
    temporary.write_text(
        json.dumps({**state.to_json(), "tensors": name}, indent=1) + "\n", encoding="utf-8"
    )
    os.replace(temporary, directory / CHECKPOINT)
    for old in directory.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def read(directory: Path) -> tuple[RunState, dict[str, Tensor]]:
    """Return state and tensors as last saved. Raises CheckpointError when there are none."""
    payload = _read_payload(directory)
    return RunState.from_json(payload), load_file(directory / payload["tensors"])


def read_state(directory: Path) -> RunState:
    """Return the state as last saved. Raises CheckpointError when there is none."""
    return RunState.from_json(_read_payload(directory))


def _read_payload(directory: Path) -> dict[str, Any]:
    path = directory / CHECKPOINT
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; train first, e.g. with make train")
    payload: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return payload


def load(directory: Path) -> Trained:
    """Load a finished run. Raises CheckpointError when it is missing or not finished."""
    state, tensors = read(directory)
    if state.stage != DONE or state.threshold is None:
        raise CheckpointError(
            f"{directory}: training stopped in stage {state.stage!r}; "
            "run the same train command again to finish it"
        )
    featuriser = Featuriser.load(directory)
    generator, evaluator = build(state.config, featuriser, state.positions)
    restore(generator, tensors, "generator.")
    restore(evaluator, tensors, "evaluator.")
    networks = generator.eval(), evaluator.eval()
    return Trained(state.config, featuriser, *networks, state.threshold, state.share, state)


def collect(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return the module's tensors, with a prefix before each name."""
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def restore(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Load what `collect` returned. Raises CheckpointError for tensors of another network."""
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:  # torch puts every name on a separate line
        reason = " ".join(str(error).split())
        raise CheckpointError(f"weights of another network or version: {reason}") from error


def collect_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return AdamW's moments as a flat dictionary of tensors."""
    return {
        f"optimizer.{index}.{name}": tensor
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what `collect_optimizer` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = tensor
    payload = optimizer.state_dict()
    payload["state"] = state
    optimizer.load_state_dict(payload)
