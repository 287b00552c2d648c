"""FastAPI around the torch generator in eager mode, one list in a run: a team's first version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from fastapi import FastAPI

from model.learning import checkpoint
from model.network.generator import Generator
from model.network.reasoning import EntropyGate, decode, greedy
from peers.fastapi_app import application, serve
from peers.work import ParsedRequest, Work, parse_options
from service.engine.rows import Row, Slate

CHECKPOINT = Path("build/checkpoints/ranklens")  # written by `make train`


class TorchWork(Work):
    """The same work, run by the checkpoint that the bundle's graph was exported from.

    Slates and steps are the graph's; log-probabilities and entropies differ in the last digits.
    """

    whole_features = True

    def __init__(self, bundle: Path, directory: Path) -> None:
        """Load both. Raises BundleError, or CheckpointError if nothing was trained."""
        super().__init__(bundle)
        torch.set_num_threads(1)  # each worker has a core; more threads only wait for each other
        self.generator = checkpoint.load(directory).generator

    @torch.inference_mode()
    def run(self, requests: Sequence[ParsedRequest]) -> list[Slate]:
        """Return one slate for each request, one after the other."""
        return [decode_row(self.generator, request.row) for request in requests]


def decode_row(generator: Generator, row: Row) -> Slate:
    """Decode the greedy slate of one row."""
    encoded = generator.encode(
        torch.from_numpy(row.numbers).unsqueeze(0),
        torch.from_numpy(row.tokens).unsqueeze(0),
        torch.ones(1, len(row.numbers), dtype=torch.bool),
    )
    gate = EntropyGate(torch.tensor([row.entropy_threshold]), torch.tensor([row.budget]))
    decoded = decode(
        generator, encoded, row.slate_size, greedy, row.recommend_temperature, gate,
        reason_temperature=torch.tensor([[row.reason_temperature]]),
    )  # fmt: skip
    return Slate(
        decoded.slate[0].numpy(),
        decoded.logprob[0].numpy(),
        decoded.entropy_before[0].numpy(),
        decoded.entropy_after[0].numpy(),
        decoded.steps[0].numpy(),
    )


def create_app() -> FastAPI:
    """Return the application of one worker."""
    work = TorchWork(parse_options(__doc__).bundle, CHECKPOINT)
    return application(lambda content: work.handle([content])[0])


if __name__ == "__main__":
    serve("peers.torch_fastapi:create_app", __doc__)
