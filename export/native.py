"""Compare the native library with the graph on random requests (`python -m export native`).

The networks have random weights, far enough from their initial values that slates differ, and every
host at several widths and numbers of blocks. A slate may differ where a decision is closer than
rounding; those are counted.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from tqdm import tqdm

from export.graph.compose import compose
from export.graph.intent import with_intent
from model.network.config import NetworkConfig, ReasoningConfig
from model.network.generator import Generator
from service.engine.collate import collate, intent_inputs
from service.engine.contract import OUTPUTS
from service.engine.initialisers import read_initialisers
from service.engine.native import NativeGenerator, NativeOutputs
from service.engine.native_check import Comparison, random_row
from service.engine.native_library import NativeLibrary, find_library
from service.engine.native_weights import generator_weights
from service.engine.rows import Row

NUMBERS = 7
LONGEST, LARGEST_BATCH = 60, 16
NOISE = 0.1  # that is added to the initial weights
THRESHOLDS = (-1.0, 0.5, 1.0, 1.5, 2.0, 1e9)  # nats


@dataclass(frozen=True)
class NativeOptions:
    """Compare the native library with the graph on random requests."""

    requests: int = 10_000
    """Lists to rank, over all networks."""
    seed: int = 0
    """Seed of weights and requests."""
    library: Path | None = None
    """Library to compare; by default the one that the service takes."""


@dataclass(frozen=True)
class Network:
    """Shape of a generator: K positions, S reasoning steps."""

    host: str
    width: int
    blocks: int
    positions: int
    budget: int


NETWORKS = (
    Network("transformer", 64, 1, 10, 3),
    Network("transformer", 16, 2, 5, 2),
    Network("transformer", 80, 0, 4, 1),
    Network("gru", 64, 1, 6, 2),
    Network("gru", 48, 2, 4, 0),
    Network("pointer", 32, 1, 6, 3),
    Network("pointer", 16, 3, 1, 2),
)


class Pair:
    """One generator with random weights: its graphs, and the native library."""

    def __init__(self, network: Network, seed: int, library: NativeLibrary) -> None:
        self.network = network
        torch.manual_seed(seed)
        config = NetworkConfig(
            host=network.host, width=network.width, heads=1, encoder_blocks=network.blocks
        )
        reasoning = ReasoningConfig(budget=network.budget)
        generator = Generator(config, NUMBERS, 2, network.positions, reasoning).eval()
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(NOISE * torch.randn(parameter.shape))
        model = compose(generator, range(NUMBERS), network.positions, gated=True)
        content = model.SerializeToString()
        with_intents = with_intent(model).SerializeToString()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._graphs = {
            intents: ort.InferenceSession(bytes_of, options)
            for intents, bytes_of in ((False, content), (True, with_intents))
        }
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(content)
            file.flush()
            initialisers = read_initialisers(Path(file.name))
        self.weights = generator_weights(initialisers, network.positions, network.budget)
        self.native = NativeGenerator(library, self.weights)

    def draw(self, draw: np.random.Generator, intents: bool) -> list[Row]:
        """Return a random batch."""
        sizes = draw.integers(1, LONGEST + 1, int(draw.integers(1, LARGEST_BATCH + 1)))
        rows = []
        for size in sizes.tolist():
            numbers = draw.standard_normal((size, NUMBERS)).astype(np.float32)
            item_rows = draw.standard_normal((size, self.network.width)).astype(np.float32)
            row = random_row(
                numbers, self.network.positions, THRESHOLDS, self.network.budget, draw, intents
            )
            rows.append(dataclasses.replace(row, rows=item_rows))
        return rows

    def run_graph(self, rows: list[Row]) -> NativeOutputs:
        """Return the graph's outputs for a batch."""
        feeds = collate(rows, self.network.positions)
        intents = [row.intent for row in rows]
        with_intents = any(intent is not None for intent in intents)
        if with_intents:
            feeds |= intent_inputs(intents, feeds)
        names = [name for name in OUTPUTS if name != "logits"]
        *outputs, logits = self._graphs[with_intents].run([*names, "logits"], feeds)
        sizes = [len(rows[owner].numbers) for owner in feeds["list"].tolist()]
        parts = [part[:, :size] for part, size in zip(logits, sizes, strict=True)]
        return NativeOutputs._make([*outputs, parts])

    def compare(self, requests: int, seed: int) -> Comparison:
        """Compare on so many lists, half of them with intents. Raises DifferenceError."""
        draw, comparison, done = np.random.default_rng(seed), Comparison(), 0
        while done < requests:
            rows = self.draw(draw, intents=bool(draw.random() < 0.5))[: requests - done]
            comparison.add(rows, self.run_graph(rows), self.native.run(rows))
            done += len(rows)
        return comparison


def compare_native(options: NativeOptions) -> dict[str, Any]:
    """Return the counts of every network. Raises DifferenceError or NativeError."""
    library = NativeLibrary(options.library or find_library())
    rows = []
    share = -(-options.requests // len(NETWORKS))
    for number, network in enumerate(tqdm(NETWORKS, "networks", disable=None)):
        pair = Pair(network, options.seed + number, library)
        comparison = pair.compare(share, options.seed + number)
        rows.append({**asdict(network), "lists": share, **asdict(comparison)})
    return {
        "lanes": library.lanes,
        "lists": share * len(NETWORKS),
        "slates": sum(row["slates"] for row in rows),
        "close": sum(row["close"] for row in rows),
        "largest_difference": max(row["largest_difference"] for row in rows),
        "networks": rows,
    }
