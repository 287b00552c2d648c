"""Options of the commands in this package, as frozen dataclasses that tyro parses.

Each field is a flag and its docstring the help text. `execute` imports what the command needs, so
that parsing stays fast.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

START = tyro.conf.create_mutex_group(required=False)


@dataclass(frozen=True)
class Train:
    """Train evaluator and generator, or resume an interrupted run; torchrun shares the work."""

    config: Path
    """Training configuration, YAML. model/network/config.py lists its fields and their defaults,
    model/configs has examples."""
    data: Path
    """Canonical data set, as `python -m model prepare` writes it."""
    out: Path
    """Directory of this run."""
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
    """Finished run, of a plain host for example, to continue with GRPO under this configuration."""

    def execute(self) -> int:
        """Train, and print threshold, seconds and validation metrics as JSON."""
        import torch

        from model.learning.accelerator import open_accelerator
        from model.learning.distributed import rank
        from model.learning.train import train
        from model.network.config import Config

        # One thread is as fast as two at this size (python -m model throughput), and its sums, and
        # so the weights, do not depend on the number of cores.
        torch.set_num_threads(1)
        config = Config.load(self.config).override(self.seed, self.budget)
        if self.smoke:
            config = config.smoke()
        plug_in = self.plug_into is not None
        start = self.plug_into if plug_in else self.start_from
        with open_accelerator(self.device, self.precision) as accelerator:
            state = train(config, self.data, self.out, start, accelerator, plug_in).to_json()
            if not rank():
                keys = ("threshold", "seconds", "validation")
                print(json.dumps({key: state[key] for key in keys}, indent=1))
        return 0


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
