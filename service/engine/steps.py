"""Reasoning states of a decoded slate: its choices before each step and after the last.

The slate is decoded once more by the static graph, with every choice forced, so that the tokens of
the positions before are those of the slate. The graph is opened for the first slate that is traced,
or before it by `open`; other slates and other graphs are not touched.

Axes: k positions of the slate, S steps, 1 + S states, N candidates, T leading candidates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.engine.collate import ModelError, collate, intent_inputs
from service.engine.contract import INTENT_STATIC, STATIC, BundleError, Floats, Integers, Manifest
from service.engine.graph import open_graph
from service.engine.rows import Row, Slate
from service.engine.step_outputs import state_names, with_outputs

LEADING = 5  # T
MASKED_LOGIT = -1e8  # candidates that may no longer be chosen have logits below it
FORCED = 1e30  # noise above every difference of log-probabilities
TIE = 1e-5  # nats at temperature 1 within which the graph's rounding may decide

Doubles = npt.NDArray[np.float64]


@dataclass(slots=True)
class StepTrace:
    """The states of each position of a slate; those after its last step repeat the state there.

    entropy: float64 [k, 1 + S] nats at temperature 1. choice: int64 [k, 1 + S], the candidate that
    each state would choose, with the noise of a sampled slate. leading: int64 [k, 1 + S, T], the
    candidates of the largest logits, -1 where fewer may be chosen. logprob: float64 [k, 1 + S, T],
    theirs at the recommending temperature. weight: float64 [k, 1 + S, T], their shares of the
    aggregate of candidates that the next step would read, at the reasoning temperature.
    """

    entropy: Doubles
    choice: Integers
    leading: Integers
    logprob: Doubles
    weight: Doubles


class StepTracer:
    """Traces the slates of one bundle on the CPU, in any thread."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """directory: the bundle; its static graphs are read when they are first needed."""
        self._directory, self._manifest = directory, manifest
        self._graphs: dict[str, tuple[ort.InferenceSession, list[str]]] = {}
        self._opening = threading.Lock()

    def open(self) -> bool:
        """Open the static graphs of the bundle; return False if all were open.

        Raises BundleError.
        """
        names = {STATIC, INTENT_STATIC} & self._manifest.files.keys() - self._graphs.keys()
        for name in sorted(names, reverse=True):  # that without intent first
            self._open(name)
        return bool(names)

    def is_open_for(self, row: Row) -> bool:
        """Return True once the graph that traces the slates of a row is open."""
        return graph_name(row) in self._graphs

    def trace(self, row: Row, slate: Slate, budget: int) -> StepTrace:
        """Return the states of a slate that was decoded for a row.

        Args:
            row: as requested.
            slate: of the row, by whatever backend.
            budget: steps per position that its run was granted.

        Raises:
            BundleError: the static graph cannot be opened.
            ModelError: the graph takes other steps than the slate, which rounding explains only
                where an entropy is as good as the threshold, or fails.
        """
        logits = self._run(row, slate, budget)
        trace = summarise(logits, row, slate, self._manifest.slate_length)
        last = trace.choice[np.arange(row.slate_size), slate.steps]
        if (last != slate.indices)[row.constraints.pinned < 0].any():
            raise ModelError(f"the states choose {last.tolist()}, not {slate.indices.tolist()}")
        return trace

    def _run(self, row: Row, slate: Slate, budget: int) -> Floats:
        """Return the logits float32 [k, 1 + S, N] of every state. Raises as `trace` does."""
        manifest, size = self._manifest, row.slate_size
        positions = manifest.slate_length
        graph, names = self._open(graph_name(row))
        feeds = collate([dataclasses.replace(row, budget=budget, sampling=None)], positions)
        if row.intent is not None:
            feeds |= intent_inputs([row.intent], feeds)
        noise = np.zeros((1, positions, len(row.numbers)), np.float32)
        noise[0, np.arange(size), slate.indices] = FORCED
        try:
            indices, steps, *states = graph.run(
                ["slate", "steps", *names], feeds | {"noise": noise}
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            raise ModelError(f"the static graph failed: {error}") from error
        for name, traced, decoded in (
            ("slate", indices, slate.indices), ("steps", steps, slate.steps)
        ):  # fmt: skip
            if not np.array_equal(traced[0, :size], decoded):
                raise ModelError(
                    f"{name} {decoded.tolist()}: traced {traced[0, :size].tolist()} instead"
                )
        logits = np.stack(states).reshape(positions, manifest.budget + 1, -1)
        return logits[:size]

    def _open(self, name: str) -> tuple[ort.InferenceSession, list[str]]:
        """Return a static graph and the names of its states. Raises BundleError."""
        if name not in self._graphs:  # an open graph need not wait for another one
            with self._opening:
                if name not in self._graphs:
                    self._graphs[name] = self._read(name)
        return self._graphs[name]

    def _read(self, name: str) -> tuple[ort.InferenceSession, list[str]]:
        """Read a static graph from its verified file. Raises BundleError."""
        manifest, path = self._manifest, self._directory / name
        try:
            model = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error})") from error
        digest, expected = hashlib.sha256(model).hexdigest(), manifest.files[name]["sha256"]
        if digest != expected:
            raise BundleError(f"{path}: SHA-256 is {digest}, but the manifest says {expected}")
        try:
            names = state_names(model, manifest.slate_length, manifest.budget)
        except ValueError as error:
            raise BundleError(f"{path}: {error}") from error
        return open_graph(path, 1, "cpu", content=with_outputs(model, names)), names


def graph_name(row: Row) -> str:
    """Return the static graph that traces the slates of a row."""
    return STATIC if row.intent is None else INTENT_STATIC


def summarise(logits: Floats, row: Row, slate: Slate, positions: int) -> StepTrace:
    """Return the trace of logits float32 [k, 1 + S, N]; positions: K, for which noise is drawn."""
    wide = logits.astype(np.float64)
    plain = log_softmax(wide)
    logprob = log_softmax(wide / row.recommend_temperature)
    weight = np.exp(log_softmax(wide / row.reason_temperature))
    order = np.argsort(-wide, axis=-1, kind="stable")[..., :LEADING]
    may_be_chosen = np.take_along_axis(wide, order, axis=-1) > MASKED_LOGIT
    return StepTrace(
        entropy=-(np.exp(plain) * plain).sum(axis=-1),
        choice=choices(logprob, row, slate, positions),
        leading=np.where(may_be_chosen, order, -1),
        logprob=np.take_along_axis(logprob, order, axis=-1),
        weight=np.take_along_axis(weight, order, axis=-1),
    )


def choices(logprob: Doubles, row: Row, slate: Slate, positions: int) -> Integers:
    """Return the candidate int64 [k, 1 + S] that each state would choose.

    It is the slate's where that is within rounding of the best, so that equal candidates do not
    take turns.

    logprob: float64 [k, 1 + S, N] at the recommending temperature.
    """
    scores = logprob
    if row.sampling is not None:
        noise = row.sampling.noise(positions, logprob.shape[-1])[slate.sample, : row.slate_size]
        scores = logprob + noise[:, None]
    items = np.broadcast_to(slate.indices[:, None, None], (*scores.shape[:-1], 1))
    of_item = np.take_along_axis(scores, items, axis=-1)[..., 0]
    size = np.abs(np.take_along_axis(logprob, items, axis=-1)[..., 0])
    rounding = TIE * np.maximum(size, max(1.0, 1 / row.recommend_temperature))
    is_tie = scores.max(axis=-1) - of_item <= rounding
    chosen: Integers = np.where(is_tie, items[..., 0], scores.argmax(axis=-1))
    return chosen


def log_softmax(logits: npt.NDArray[Any]) -> Doubles:
    """Return log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised
