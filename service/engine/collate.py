"""Collate rows into the graph's inputs, and decode its outputs into checked slates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.engine.contract import OUTPUTS, Floats
from service.engine.intent import FLOOR, SlateIntent
from service.engine.rows import Row, Slate

SLATE_OUTPUTS = [name for name in OUTPUTS if name != "logits"]
COLUMNS = ["indices", *SLATE_OUTPUTS[1:]]  # the fields of Slate that hold them


class ModelError(RuntimeError):
    """The graph failed, or its output is not a valid slate."""


def collate(rows: Sequence[Row], positions: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the graph's inputs for rows of different list sizes, padded to the longest list.

    positions: K of the graph. A sampled row takes as many slates as it samples.
    """
    longest = max(len(row.numbers) for row in rows)
    count = len(rows)
    slates = [row.sampling.slates if row.sampling else 1 for row in rows]
    total, sampled = sum(slates), any(row.sampling for row in rows)
    mask = np.zeros((count, longest), np.bool_)
    noise = np.zeros((total, positions, longest if sampled else 1), np.float32)
    pinned = np.full((count, positions), -1, np.int64)
    group = np.full((count, longest), -1, np.int64)  # padding belongs to no group
    quota = np.zeros((count, longest), np.float32)
    start = 0
    for index, row in enumerate(rows):
        size = len(row.numbers)
        mask[index, :size] = True
        pinned[index, : row.slate_size] = row.constraints.pinned
        group[index, :size] = row.constraints.group
        quota[index, :size] = row.constraints.quota
        if row.sampling:
            stop = start + slates[index]
            noise[start:stop, :, :size] = row.sampling.noise(positions, size)
        start += slates[index]
    lists = np.arange(count)
    if total != count:
        lists = lists.repeat(slates)
        pinned, group, quota = pinned[lists], group[lists], quota[lists]

    def per_slate(name: str, dtype: Any) -> np.ndarray[Any, Any]:
        values = np.array([getattr(row, name) for row in rows], dtype)
        return values if total == count else values[lists]

    return {
        **list_inputs(rows, longest),
        "mask": mask,
        "list": lists,
        "length": per_slate("slate_size", np.int64),
        "budget": per_slate("budget", np.int64),
        "entropy_threshold": per_slate("entropy_threshold", np.float32),
        "reason_temperature": per_slate("reason_temperature", np.float32),
        "recommend_temperature": per_slate("recommend_temperature", np.float32),
        "noise": noise,
        "pinned": pinned,
        "group": group,
        "quota": quota,
    }


def intent_inputs(
    intents: Sequence[SlateIntent | None], feeds: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the further inputs of the graph of intent; a list without intent has zeros.

    The first column is `FLOOR` for every candidate and attribute, so that no logarithm is of 0, not
    even at padding.

    feeds: the inputs from `collate` for the same lists.
    """
    count, longest = feeds["mask"].shape
    some = [intent for intent in intents if intent is not None]
    width = 1 + max([0, *(len(one.weight) + one.values.shape[1] for one in some)])
    attributes = max([1, *(len(one.weight) for one in some)])
    boosted = any(one.boost is not None for one in some)
    boost = np.zeros((count, longest if boosted else 1), np.float32)
    values = np.zeros((count, longest, width), np.float32)
    member = np.zeros((count, attributes, width), np.float32)
    values[:, :, 0], member[:, :, 0] = FLOOR, 1
    weight = np.zeros((count, attributes), np.float32)
    retained = np.ones((count, width), np.float32)
    for index, intent in enumerate(intents):
        if intent is None:
            continue
        number, size = intent.alone.shape
        weight[index, :number] = intent.weight
        for attribute, (first, end) in enumerate(intent.spans()):
            start = 1 + attribute + first
            stop = 1 + attribute + end  # the column of the values that one candidate alone has
            values[index, :size, start:stop] = intent.values[:, first:end]
            values[index, :size, stop] = intent.alone[attribute]
            member[index, attribute, start : stop + 1] = 1
            retained[index, start:stop] = intent.retained[attribute]
        if intent.boost is not None:
            boost[index, :size] = intent.boost
    if len(feeds["list"]) != count:
        boost, weight, retained = (array[feeds["list"]] for array in (boost, weight, retained))
    return {
        "boost": boost,
        "values": values,
        "member": member,
        "diversity_weight": weight,
        "retained": retained,
    }


def list_inputs(rows: Sequence[Row], longest: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the inputs that embed lists, padded to the longest of them."""
    inputs: dict[str, Sequence[np.ndarray[Any, Any]]] = {"numbers": [row.numbers for row in rows]}
    item_rows = [row.rows for row in rows if row.rows is not None]
    if item_rows:
        inputs = {"rows": item_rows, **inputs}
    else:
        inputs["tokens"] = [row.tokens for row in rows]
    return {name: padded(arrays, longest) for name, arrays in inputs.items()}


def padded(arrays: Sequence[np.ndarray[Any, Any]], longest: int) -> np.ndarray[Any, Any]:
    """Return arrays [N, width] of different N as one, [B, longest, width], with zeros."""
    first = arrays[0]
    if len(arrays) == 1:
        return first[None]
    joined = np.zeros((len(arrays), longest, first.shape[1]), first.dtype)
    for index, array in enumerate(arrays):
        joined[index, : len(array)] = array
    return joined


def decode(
    rows: Sequence[Row],
    outputs: Sequence[np.ndarray[Any, Any]],
    logits: Sequence[Floats | None] | None,
    utility: Floats | None,
) -> list[Slate]:
    """Return one checked slate per row; of a sampled row, its slate of highest utility.

    outputs: SLATE_OUTPUTS; logits float32 [K, N] of each slate if any row is to be explained or has
    an intent; utility float32 [R] if any is sampled. Raises ModelError for an output that is not a
    valid slate.
    """
    slates, start = [], 0
    for row in rows:
        best, value, count = start, None, row.sampling.slates if row.sampling else 1
        if row.sampling and utility is not None:
            best += int(utility[start : start + count].argmax())
            value = float(utility[best])
        columns = {
            name: output[best, : row.slate_size]
            for name, output in zip(COLUMNS, outputs, strict=True)
        }
        of_row = None
        if (row.explain or row.intent is not None) and logits is not None:
            of_slate = logits[best]
            assert of_slate is not None
            of_row = of_slate[: row.slate_size, : len(row.numbers)]
        slate = Slate(**columns, utility=value, logits=of_row, sample=best - start)
        check_slate(slate, row)
        slates.append(slate)
        start += count
    return slates


def check_slate(slate: Slate, row: Row) -> None:
    """Raise ModelError unless the slate meets the row's constraints and its numbers are finite."""
    indices = slate.indices.tolist()
    if len(indices) != row.slate_size:
        raise ModelError(f"slate has {len(indices)} positions, the row has {row.slate_size}")
    if indices and not (min(indices) >= 0 and max(indices) < len(row.numbers)):
        raise ModelError(f"slate {indices}: index outside a list of {len(row.numbers)} candidates")
    if len(set(indices)) != len(indices):
        raise ModelError(f"slate {indices}: a candidate is repeated")
    violation = row.constraints.violation(indices)
    if violation is not None:
        raise ModelError(f"slate {indices}: {violation}")
    if slate.utility is not None and not np.isfinite(slate.utility):
        raise ModelError(f"utility: must be finite, got {slate.utility}")
    figures = (slate.logprob, slate.entropy_before, slate.entropy_after)
    # A sum of float32 is finite in float64 if and only if all of them are.
    if not all(math.isfinite(sum(column.tolist())) for column in figures):
        raise ModelError(f"slate {indices}: log-probabilities or entropies are not finite")
    steps = slate.steps.tolist()
    if steps and not (min(steps) >= 0 and max(steps) <= row.budget):
        raise ModelError(f"steps {steps}: must be from 0 to the budget of {row.budget}")
