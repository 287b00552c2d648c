"""FastAPI around the torch generator in eager mode, one list in a run: what a team writes first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from fastapi import FastAPI

from model.learning import checkpoint
from model.network.reasoning import EntropyGate, decode, greedy
from peers.fastapi_app import application, serve
from peers.work import Asked, Work, arguments
from service.engine.rows import Slate

CHECKPOINT = Path("build/checkpoints/ranklens")  # what `make train` writes


class TorchWork(Work):
    """The same work, run by the checkpoint that the bundle's graph was exported from.

    Its slates and steps are the graph's; log-probabilities and entropies differ in the last digits.
    """

    def __init__(self, bundle: Path, directory: Path) -> None:
        """Load both. Raises BundleError, or CheckpointError where nothing was trained."""
        super().__init__(bundle)
        torch.set_num_threads(1)  # each worker has a core; more threads only wait for each other
        self.generator = checkpoint.load(directory).generator

    @torch.inference_mode()
    def run(self, asked: Sequence[Asked]) -> list[Slate]:
        """One slate for each list, one after the other."""
        return [self._slate(each) for each in asked]

    def _slate(self, asked: Asked) -> Slate:
        row = asked.row
        encoded = self.generator.encode(
            torch.from_numpy(row.numbers).unsqueeze(0),
            torch.from_numpy(row.tokens).unsqueeze(0),
            torch.ones(1, len(row.numbers), dtype=torch.bool),
        )
        gate = EntropyGate(torch.tensor([row.entropy_threshold]), torch.tensor([row.budget]))
        found = decode(
            self.generator, encoded, row.slate_size, greedy, row.recommend_temperature, gate,
            reason_temperature=torch.tensor([[row.reason_temperature]]),
        )  # fmt: skip
        columns = (found.slate, found.logprob, found.entropy_before, found.entropy_after)
        return Slate(*(column[0].numpy() for column in (*columns, found.steps)))


def create_app() -> FastAPI:
    """The application of one worker."""
    work = TorchWork(arguments(__doc__).bundle, CHECKPOINT)
    return application(lambda content: work.answer([content])[0])


if __name__ == "__main__":
    serve("peers.torch_fastapi:create_app", __doc__)
