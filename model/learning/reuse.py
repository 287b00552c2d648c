"""Take over the evaluator, and for --plug-into the generator, of a run on the same data."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from model.learning import checkpoint
from model.learning.checkpoint import CheckpointError
from model.learning.state import DONE, RunState
from model.network.evaluator import Evaluator
from model.network.generator import Generator


def reuse(
    start: Path, plug_in: bool, state: RunState, generator: Generator, evaluator: Evaluator
) -> None:
    """Restore networks and state from `start`, which must be a run on the data of `state`.

    Args:
        plug_in: take over the generator too, and continue after the warm start.
        state: of the run that begins; its configuration and data are set.

    Raises CheckpointError for an unfinished run, or one on other data or of another network.
    """
    earlier, tensors = checkpoint.read(start)
    if earlier.data_digest != state.data_digest:
        # That evaluator may have learned from lists that are held out in this data set, and
        # its tokens may stand for other words.
        raise CheckpointError(
            f"{start}: holds a run on other data ({earlier.data}, digest {earlier.data_digest}) "
            f"than {state.data} (digest {state.data_digest}); start from a run on this data, or "
            "continue with --from"
        )
    if earlier.shared_seconds is None:
        raise CheckpointError(
            f"{start}: its evaluator is not finished; run its train command again"
        )
    checkpoint.restore(evaluator, tensors, "evaluator.")
    state.stage = "warm_start"
    state.seconds = state.shared_seconds = earlier.shared_seconds
    if "evaluator" in earlier.validation:
        state.validation["evaluator"] = earlier.validation["evaluator"]
    if plug_in:
        _plug_into(start, earlier, tensors, state, generator)


def _plug_into(
    start: Path,
    earlier: RunState,
    tensors: dict[str, Tensor],
    state: RunState,
    generator: Generator,
) -> None:
    """Take over a finished generator and continue with the stage after the warm start.

    With another budget the embeddings of reasoning steps stay as initialised.
    """
    config, network = earlier.config, state.config.network
    if earlier.stage != DONE or config.network != network:
        raise CheckpointError(
            f"{start}: --plug-into needs a finished run with {network}, got stage "
            f"{earlier.stage!r} with {config.network}"
        )
    if config.reasoning.budget != state.config.reasoning.budget:
        initial = generator.state_dict()["reason_step.weight"]
        tensors["generator.reason_step.weight"] = initial
    checkpoint.restore(generator, tensors, "generator.")
    state.stage = state.config.stages[2]
    state.seconds = earlier.seconds
