"""Choose between the native library and the graph when a bundle is loaded.

The library is taken where it gives the graph's slates: on random requests over the bundle's items,
with every option, and on its golden requests.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from service.engine.contract import (
    EVALUATOR,
    GENERATOR,
    NETWORKS,
    BundleError,
    Floats,
    Manifest,
)
from service.engine.features.featuriser import Featuriser
from service.engine.features.layout import EncodedList
from service.engine.features.row_featuriser import RowFeaturiser
from service.engine.initialisers import read_initialisers
from service.engine.native import NativeEvaluator, NativeGenerator, NativeOutputs
from service.engine.native_check import CLOSE, Comparison, DifferenceError, random_row
from service.engine.native_columns import NativeColumns, gives_same_bits
from service.engine.native_library import NativeLibrary, find_library
from service.engine.native_weights import (
    GeneratorWeights,
    UnsupportedError,
    evaluator_weights,
    generator_weights,
)
from service.engine.rows import Row

BackendName = Literal["auto", "onnx", "native"]
Decoded = tuple[NativeOutputs, Floats | None]  # and the utility float32 [R] if any row is sampled
GENERATOR_ROWS, EVALUATOR_ROWS = NETWORKS
CHECKED, BATCH, LONGEST = 256, 16, 50  # random requests, those of a batch, and their candidates
EVERY_STEP, NO_STEP = -1.0, 1e9  # thresholds, nats


@dataclass(frozen=True)
class Backend:
    """The backend of a session, native or onnx.

    reason: for onnx; setting, provider, library, configuration or difference. detail: in a
    sentence.
    """

    name: str
    reason: str
    detail: str

    @classmethod
    def onnx(cls, error: Exception) -> Backend:
        """Return the graph as backend, because of the error that the library raised."""
        reasons = {
            UnsupportedError: "configuration", DifferenceError: "difference",
            BundleError: "difference",
        }  # fmt: skip
        return cls("onnx", reasons.get(type(error), "library"), str(error) or repr(error))


def native_backend(comparison: Comparison, columns: bool) -> Backend:
    """Return the library as backend, after a comparison with the graph.

    columns: whether the library also writes the columns that compare candidates.
    """
    by_numpy = "; numpy selects entries in another order, so it writes the features"
    detail = (
        f"{comparison.slates - comparison.close} of {comparison.slates} slates are those of the "
        f"graph, the others differ at margins below {CLOSE:g}; figures differ by at most "
        f"{comparison.largest_difference:.1e}"
        f"{'' if columns else by_numpy}"
    )
    return Backend("native", "", detail)


BY_SETTING = Backend("onnx", "setting", "RERANK_BACKEND=onnx")
ON_GPU = Backend("onnx", "provider", "the GPU runs the graph")


class NativeBackend:
    """Generator and evaluator of a bundle in the native library."""

    def __init__(self, directory: Path, manifest: Manifest, featuriser: Featuriser) -> None:
        """Read the weights of a bundle.

        Raises NativeError if there is no library, and UnsupportedError if it cannot run the bundle.
        """
        library, positions = shared_library(), manifest.slate_length
        self.weights = generator_weights(
            read_initialisers(directory / GENERATOR), positions, manifest.budget
        )
        self.evaluator = NativeEvaluator(
            library, evaluator_weights(read_initialisers(directory / EVALUATOR), positions)
        )
        self.generator = NativeGenerator(library, self.weights)
        self._featuriser = featuriser
        self._columns = NativeColumns(library, featuriser.compared.places)

    def take_columns(self) -> bool:
        """Let the library write the featuriser's columns if it gives numpy's bits; true if so."""
        compared = self._featuriser.compared
        same = gives_same_bits(self._columns, compared)
        compared.native = self._columns if same else None
        return same

    def run(self, rows: Sequence[Row]) -> Decoded:
        """Decode rows; the utility of a slate without sampling is 0. Raises NativeError."""
        outputs = self.generator.run(rows)
        sampled = [row for row in rows if row.sampling]
        if not sampled:
            return outputs, None
        is_sampled = np.repeat(
            [row.sampling is not None for row in rows],
            [row.sampling.slates if row.sampling else 1 for row in rows],
        )
        utility = np.zeros(len(outputs.slate), np.float32)
        item_rows = [self._evaluator_rows(row) for row in sampled]
        utility[is_sampled] = self.evaluator.run(sampled, item_rows, outputs.slate[is_sampled])
        return outputs, utility

    def _evaluator_rows(self, row: Row) -> Floats | None:
        featuriser = self._featuriser
        if not isinstance(featuriser, RowFeaturiser):
            return None
        if row.encoded is None:  # a blank row, for timing
            width = featuriser.halves[EVALUATOR_ROWS].width
            return np.zeros((len(row.numbers), width), np.float32)
        return featuriser.rows(row.encoded, EVALUATOR_ROWS)


@functools.cache
def shared_library() -> NativeLibrary:
    """Return the library, loaded once in a process. Raises NativeError."""
    return NativeLibrary(find_library())


def check(
    native: NativeBackend,
    run_graph: Callable[[Sequence[Row]], Decoded],
    manifest: Manifest,
    featuriser: Featuriser,
) -> Comparison:
    """Compare slates and utilities with those of the graph. Raises DifferenceError, NativeError."""
    comparison = Comparison()
    for rows in random_batches(native.weights, manifest, featuriser):
        outputs, expected = run_graph(rows)
        decoded, utility = native.run(rows)
        comparison.add(rows, outputs, decoded)
        if utility is None or expected is None:
            continue
        same = (outputs.slate == decoded.slate).all(axis=1) & (utility > 0)
        difference = float(np.abs(utility - expected)[same].max(initial=0.0))
        if not difference <= CLOSE:
            raise DifferenceError(f"utility may differ by {CLOSE}, got {difference:.1e}")
    return comparison


def random_batches(
    weights: GeneratorWeights, manifest: Manifest, featuriser: Featuriser
) -> Iterator[list[Row]]:
    """Yield batches of explained random rows over a bundle's items."""
    draw = np.random.default_rng(0)
    longest = min(LONGEST, manifest.max_candidates)
    thresholds = EVERY_STEP, manifest.entropy_threshold, NO_STEP
    for batch in range(CHECKED // BATCH):
        rows = []
        for size in draw.integers(1, longest + 1, BATCH).tolist():
            row = random_row(
                draw.standard_normal((size, weights.numbers)).astype(np.float32),
                manifest.slate_length, thresholds, manifest.budget, draw,
                intents=manifest.supports_intent and batch % 2 == 1,
            )  # fmt: skip
            rows.append(with_items(row, weights, manifest, featuriser, draw))
        yield rows


def with_items(
    row: Row,
    weights: GeneratorWeights,
    manifest: Manifest,
    featuriser: Featuriser,
    draw: np.random.Generator,
) -> Row:
    """Return the row over random items of the bundle, or random tokens if it is of contract 2."""
    size = len(row.numbers)
    if not isinstance(featuriser, RowFeaturiser):
        assert weights.table is not None
        assert manifest.tokens is not None
        tokens = draw.integers(0, len(weights.table), (size, manifest.tokens))
        return dataclasses.replace(row, tokens=tokens)
    items = draw.integers(0, len(featuriser.items.ids) + 1, size)  # the last row is of unknown ones
    item_rows = featuriser.halves[GENERATOR_ROWS].rows.take(items, axis=0)
    tokens = np.zeros((size, featuriser.tokens_width), np.int64)
    encoded = EncodedList(row.numbers, tokens, items, ())
    return dataclasses.replace(row, rows=item_rows, encoded=encoded)
