"""Options of the commands in this package, as frozen dataclasses that tyro parses.

Each field is a flag and its docstring the help text. `execute` imports what the command needs, so
that parsing stays fast.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from model.network.config import Config

START = tyro.conf.create_mutex_group(required=False)


@dataclass(frozen=True)
class Train:
    """Train evaluator and generator, or resume an interrupted run; torchrun shares the work."""

    data: Path
    """Canonical data set, as `python -m model prepare` writes it."""
    out: Path
    """Directory of this run."""
    config: Path | None = None
    """Training configuration, YAML. model/network/config.py lists its fields and their defaults,
    model/configs has examples. Required without --from, which has the checkpoint's by default."""
    epochs: int | None = None
    """Replaces the epochs of every stage. Default with --from and without --config: a quarter of
    those of the checkpoint, or as many if it continues another run."""
    smoke: bool = False
    """Run a miniature, for tests."""
    seed: int | None = None
    """Replaces the seed of the configuration."""
    budget: int | None = None
    """Replaces reasoning.budget of the configuration: reasoning steps per position."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the networks; auto is CUDA where there is a CUDA device."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Precision of forward passes that are differentiated. Default: bfloat16 on CUDA, float32 on
    the CPU."""
    start_from: Annotated[Path | None, START] = None
    """Finished run on the same data whose evaluator is reused."""
    plug_into: Annotated[Path | None, START] = None
    """Finished run, of a plain host for example, to continue after the warm start under this
    configuration."""
    continue_from: Annotated[Path | None, START, tyro.conf.arg(name="from", metavar="PATH")] = None
    """Finished run to continue on other data of the same schema: weights and normalisation stay,
    and vocabularies grow."""

    def execute(self) -> int:
        """Train, and print threshold, seconds and validation metrics as JSON."""
        import torch

        from model.learning.accelerator import open_accelerator
        from model.learning.distributed import rank
        from model.learning.train import train

        # One thread is as fast as two at this size (python -m model throughput), and its sums, and
        # so the weights, do not depend on the number of cores.
        torch.set_num_threads(1)
        config = self._configuration()
        start = self.plug_into or self.start_from or self.continue_from
        plug_in, continued = self.plug_into is not None, self.continue_from is not None
        with open_accelerator(self.device, self.precision) as accelerator:
            run = train(
                config, self.data, self.out, start, accelerator, plug_in, continued=continued
            )
            if not rank():
                state = run.to_json()
                keys = ("threshold", "seconds", "validation")
                print(json.dumps({key: state[key] for key in keys}, indent=1))
        return 0

    def _configuration(self) -> Config:
        """Return the configuration with the options applied. Raises ConfigError."""
        from model.learning.checkpoint import CHECKPOINT, read_state
        from model.learning.continuation import continued_config
        from model.network.config import Config, ConfigError

        resumes = (self.out / CHECKPOINT).exists()
        if self.config is not None:
            config = Config.load(self.config)
        elif self.continue_from is None:
            raise ConfigError("--config: required without --from; model/configs has examples")
        elif resumes:  # the checkpoint that it continues may be gone
            config = read_state(self.out).config
        else:
            config = continued_config(read_state(self.continue_from))
        config = config.override(self.seed, self.budget, self.epochs)
        return config.smoke() if self.smoke else config


@dataclass(frozen=True)
class Evaluate:
    """Measure a bundle on held-out lists through the session that serves it."""

    bundle: Path
    """Directory of the bundle."""
    data: Path = Path("build/ranklens/warm")
    """Canonical data set."""
    split: Literal["train", "valid", "test"] = "test"
    """Split whose lists are measured."""
    url: str | None = None
    """Rank through this running service of the same bundle instead of in this process."""

    def execute(self) -> int:
        """Print the metrics as JSON, and what they mean on standard error."""
        from model.learning.evaluate import evaluate, http_ranker
        from model.learning.worth import sentences
        from service.engine.session import Session

        session = Session.load(self.bundle)
        rank = http_ranker(self.url) if self.url else None
        metrics = evaluate(session, self.data, self.split, rank)
        print(json.dumps(metrics, indent=1))
        print(*sentences(metrics), sep="\n", file=sys.stderr)
        return 0
