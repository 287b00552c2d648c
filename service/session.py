"""One onnxruntime session over one bundle: verify, replay golden requests, run, check slates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.contract import GENERATOR, GOLDEN, INPUTS, OUTPUTS, BundleError, Manifest
from service.features import Featuriser, Floats, Integers, Request


class ModelError(RuntimeError):
    """The graph failed, or answered something that is not a slate."""


@dataclass(frozen=True)
class Row:
    """One featurised request: numbers float32 [N, F], tokens int64 [N, T] and its knobs."""

    numbers: Floats
    tokens: Integers
    slate_size: int
    budget: int
    entropy_threshold: float


@dataclass(frozen=True)
class Slate:
    """One decoded slate of k positions.

    indices int64 [k] into the candidate list; logprob, entropy_before, entropy_after float32 [k]
    (nats); steps int64 [k], the reasoning steps taken before each position.
    """

    indices: Integers
    logprob: Floats
    entropy_before: Floats
    entropy_after: Floats
    steps: Integers


class Session:
    """A verified bundle, ready to run. `run` is thread-safe and releases the GIL."""

    def __init__(
        self, manifest: Manifest, featuriser: Featuriser, graph: ort.InferenceSession
    ) -> None:
        self.manifest = manifest
        self.featuriser = featuriser
        self._graph = graph

    @classmethod
    def load(cls, directory: Path, threads: int = 1) -> Session:
        """Verify every file and the graph's signature, then replay the golden requests.

        `threads` is onnxruntime's intra-op count; the graph is small, so one is usually fastest.
        Raises BundleError naming the file and both values.
        """
        manifest = Manifest.read(directory)
        manifest.verify_files(directory)
        try:
            featuriser = Featuriser.load(directory)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{directory}: feature tables do not load ({error})") from error
        for name in ("numbers", "tokens"):
            width = getattr(featuriser, f"{name}_width")
            if width != getattr(manifest, name):
                raise BundleError(
                    f"{directory}: the featuriser makes {width} columns of {name}, "
                    f"the manifest says {getattr(manifest, name)}"
                )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning burns the core that the event loop needs between runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            graph = ort.InferenceSession(
                str(directory / GENERATOR), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            raise BundleError(f"{directory / GENERATOR}: does not load ({error})") from error
        session = cls(manifest, featuriser, graph)
        session._check_signature(directory / GENERATOR)
        session.replay_golden(json.loads((directory / GOLDEN).read_text(encoding="utf-8")))
        return session

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph."""
        return str(self._graph.get_providers()[0])

    def _check_signature(self, path: Path) -> None:
        for what, found, expected in (
            ("inputs", self._graph.get_inputs(), INPUTS),
            ("outputs", self._graph.get_outputs(), OUTPUTS),
        ):
            names = [value.name for value in found]
            if names != list(expected):
                raise BundleError(f"{path}: {what} are {names}, the contract has {list(expected)}")

    def row(
        self,
        request: Request,
        slate_size: int | None = None,
        budget: int | None = None,
        entropy_threshold: float | None = None,
    ) -> Row:
        """Featurise one request; what is not given is the bundle's default.

        Raises FeatureError for inline features that break the schema.
        """
        manifest = self.manifest
        numbers, tokens = self.featuriser.transform(request)
        longest = min(manifest.slate_length, len(request.ids))
        return Row(
            numbers=numbers,
            tokens=tokens,
            slate_size=longest if slate_size is None else slate_size,
            budget=manifest.budget if budget is None else budget,
            entropy_threshold=(
                manifest.entropy_threshold if entropy_threshold is None else entropy_threshold
            ),
        )

    def run(self, rows: Sequence[Row]) -> list[Slate]:
        """Decode one slate per row in a single padded run.

        Raises ModelError when the graph fails or any answer is not a valid slate.
        """
        try:
            outputs = self._graph.run(list(OUTPUTS), collate(rows))
        except Exception as error:  # see load
            raise ModelError(f"the graph failed: {error}") from error
        slates = []
        for index, row in enumerate(rows):
            slate = Slate(*(output[index, : row.slate_size] for output in outputs))
            check_slate(slate, row)
            slates.append(slate)
        return slates

    def replay_golden(self, golden: Sequence[Mapping[str, Any]]) -> None:
        """Raises BundleError for the first golden request whose slate or steps differ."""
        for number, entry in enumerate(golden):
            row = self.row(Request.from_json(entry["request"]))
            try:
                slate = self.run([row])[0]
            except ModelError as error:
                raise BundleError(f"{GOLDEN}[{number}]: {error}") from error
            ids = [entry["request"]["candidates"][i]["id"] for i in slate.indices.tolist()]
            for what, got in (("slate", ids), ("steps", slate.steps.tolist())):
                if got != entry[what]:
                    raise BundleError(f"{GOLDEN}[{number}].{what}: {got}, expected {entry[what]}")

    def warm_up(self, batch_sizes: Sequence[int], list_size: int) -> None:
        """Run each batch size once, so that no request pays for the first allocation."""
        numbers = np.zeros((list_size, self.manifest.numbers), np.float32)
        tokens = np.zeros((list_size, self.manifest.tokens), np.int64)
        size = min(self.manifest.slate_length, list_size)
        row = Row(numbers, tokens, size, self.manifest.budget, self.manifest.entropy_threshold)
        for batch in batch_sizes:
            self.run([row] * batch)


def collate(rows: Sequence[Row]) -> dict[str, np.ndarray[Any, Any]]:
    """Rows of different list sizes -> the graph's inputs, padded to the longest list."""
    longest = max(len(row.numbers) for row in rows)
    count, first = len(rows), rows[0]
    numbers = np.zeros((count, longest, first.numbers.shape[1]), np.float32)
    tokens = np.zeros((count, longest, first.tokens.shape[1]), np.int64)
    mask = np.zeros((count, longest), np.bool_)
    for index, row in enumerate(rows):
        size = len(row.numbers)
        numbers[index, :size] = row.numbers
        tokens[index, :size] = row.tokens
        mask[index, :size] = True
    return {
        "numbers": numbers,
        "tokens": tokens,
        "mask": mask,
        "budget": np.array([row.budget for row in rows], np.int64),
        "entropy_threshold": np.array([row.entropy_threshold for row in rows], np.float32),
    }


def check_slate(slate: Slate, row: Row) -> None:
    """Raises ModelError unless the slate has its length, no repeats, no padding, finite numbers."""
    indices = slate.indices.tolist()
    if len(indices) != row.slate_size:
        raise ModelError(f"slate of {len(indices)} positions, asked for {row.slate_size}")
    if any(not 0 <= index < len(row.numbers) for index in indices):
        raise ModelError(f"slate {indices} points outside a list of {len(row.numbers)}")
    if len(set(indices)) != len(indices):
        raise ModelError(f"slate {indices} repeats a candidate")
    if not (np.isfinite(slate.logprob).all() and np.isfinite(slate.entropy_after).all()):
        raise ModelError("log-probabilities or entropies are not finite")
    steps = slate.steps.tolist()
    if any(not 0 <= step <= row.budget for step in steps):
        raise ModelError(f"steps {steps} outside the budget of {row.budget}")
