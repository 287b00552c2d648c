"""Summary of the study of learning from search: intervals, paired differences, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.data.intervals import excludes_zero, rounded
from model.study.search_cells import OF_SLATES, POSITIONAL, gate_names_of, labels_of
from model.study.search_gates import ALWAYS, HALTING, KINDS, NONE, SHARES, gate_name
from model.study.search_models import FULL, Source, host_of, is_host

Array = np.ndarray[Any, Any]
Cells = Sequence[Mapping[str, Mapping[str, Array]]]  # by seed, then by model
Entry = Mapping[str, Any]
DIGITS = 6
# Idea, its model, the model that must be worse for the idea to live, and the gate of both.
KILLS = (
    ("teacher per step", "pointer EGLR, teacher per step", "pointer zero token, teacher per step"),
    ("teacher per step", "pointer EGLR, teacher per step", "pointer EGLR"),
)


class Figures:
    """The figures of one data set's cells; a seed may lack models.

    models: those with a cell and their host's, of any seed.
    """

    def __init__(self, source: Source, cells: Cells) -> None:
        self.source, self.cells = source, cells
        self.names = (*OF_SLATES, *labels_of(source))
        self.models = [m for m in source.models if self.seeds_of(m, host_of(m))]
        first = self.seeds_of(self.models[0])[0][self.models[0]]
        # alpha-NDCG is undefined for a list whose likes have no value.
        undefined = [np.isnan(first[f"{NONE} {name}"]) for name in self.names]
        self.complete = ~np.any(undefined, axis=0)

    def seeds_of(self, *models: str) -> list[Mapping[str, Mapping[str, Array]]]:
        """Return the cells of the seeds that have all these models."""
        return [of_seed for of_seed in self.cells if all(model in of_seed for model in models)]

    def stack(self, model: str, gate: str, figure: str, beside: str | None = None) -> Array:
        """Return a figure of every list and of the seeds with a model, [S, R].

        Args:
            beside: another model that the seeds must have.
        """
        cells, key = self.seeds_of(model, beside or model), f"{gate} {figure}"
        return np.stack([of_seed[model][key][self.complete] for of_seed in cells])

    def mean(self, model: str, gate: str, figure: str) -> Array:
        """Return a figure that a cell keeps once, or by position, as its mean over seeds."""
        cells, key = self.seeds_of(model), f"{gate} {figure}"
        return np.asarray(np.mean([of_seed[model][key] for of_seed in cells], axis=0))

    def difference(
        self, of: tuple[str, str], to: tuple[str, str], figure: str = "regret"
    ) -> list[float | None]:
        """Return the paired difference of a figure between two (model, gate), with interval."""
        left, right = self.stack(*of, figure, to[0]), self.stack(*to, figure, of[0])
        return rounded(left - right, DIGITS)


def summarise(source: Source, cells: Cells) -> dict[str, Any]:
    """Return the section of a data set for the report's JSON."""
    figures = Figures(source, cells)
    seconds = [float(cell["seconds"]) for of_seed in cells for cell in of_seed.values()]
    return {
        "name": source.name,
        "lists": int(figures.complete.sum()),
        "seeds": max(len(figures.seeds_of(model)) for model in figures.models),
        "labels": list(labels_of(source)),
        "rows": rows(figures),
        "controls": compare_controls(figures),
        "gates": compare_gates(figures),
        "shares": shares(figures),
        "entropy": by_position(figures),
        "kills": apply_criteria(figures),
        "seconds": round(sum(seconds), 1),
    }


def rows(figures: Figures) -> list[dict[str, Any]]:
    """Return mean and interval of every figure, and its paired difference from the host's."""
    table = []
    for model in figures.models:
        for gate in gate_names_of(model):
            row: dict[str, Any] = {"model": model, "gate": gate}
            row["seeds"] = len(figures.seeds_of(model))
            row["ms"] = round(float(figures.mean(model, gate, "ms")), 3)
            for figure in figures.names:
                row[figure] = rounded(figures.stack(model, gate, figure), DIGITS)
                if not is_host(model):
                    host = host_of(model), NONE
                    row[f"{figure} - host"] = figures.difference((model, gate), host, figure)
            table.append(row)
    return table


def compare_controls(figures: Figures) -> list[dict[str, Any]]:
    """Return EGLR's regret with every step minus that of tokens of other content, by host."""
    return [
        {
            "model": model,
            "other": other,
            "seeds": len(figures.seeds_of(model, other)),
            "difference": figures.difference((model, ALWAYS), (other, ALWAYS)),
        }
        for model in figures.models
        if model.endswith(" EGLR")
        for other in (f"{model.removesuffix('EGLR')}{token} token" for token in ("zero", "learned"))
        if other in figures.models
    ]


def compare_gates(figures: Figures) -> list[dict[str, Any]]:
    """Return the entropy gate's regret minus that of each other gate at equal mean steps."""
    table = []
    for model in (name for name in FULL if name in figures.models):
        for share in SHARES:
            others = [*KINDS[1:], *([HALTING] if share == SHARES[0] else [])]
            for other in others:
                of, to = (model, gate_name(KINDS[0], share)), (model, gate_name(other, share))
                table.append(
                    {
                        "model": model,
                        "share": share,
                        "other": other,
                        "steps": round(float(figures.stack(*of, "steps").mean()), 3),
                        "steps of the other": round(float(figures.stack(*to, "steps").mean()), 3),
                        "difference": figures.difference(of, to),
                    }
                )
    return table


def shares(figures: Figures) -> list[dict[str, Any]]:
    """Return the share of the gain over the host that is left with fewer steps.

    It is null unless the interval of the gain with every step lies above 0.
    """
    table = []
    for model in (name for name in figures.models if not is_host(name)):
        host = float(figures.stack(host_of(model), NONE, "regret", model).mean())
        gain = figures.difference((host_of(model), NONE), (model, ALWAYS))
        for share in SHARES:
            left = host - float(figures.stack(model, gate_name(KINDS[0], share), "regret").mean())
            clear = excludes_zero(gain) and (gain[0] or 0.0) > 0
            table.append(
                {
                    "model": model,
                    "share": share,
                    "gain": gain,
                    "left": round(share_of_gain(left, gain[0]), 3) if clear else None,
                }
            )
    return table


def share_of_gain(left: float, gain: float | None) -> float:
    """Return the part of a gain that is left."""
    return left / gain if gain else 0.0


def by_position(figures: Figures) -> list[dict[str, Any]]:
    """Return entropies before and after reasoning and steps by position, means over lists."""
    half = gate_name(KINDS[0], SHARES[0])
    return [
        {
            "model": model,
            "gate": gate,
            **{
                name: [round(float(v), 4) for v in figures.mean(model, gate, name)]
                for name in POSITIONAL
            },
        }
        for model in figures.models
        for gate in gate_names_of(model)
        if gate in (NONE, half, ALWAYS)
    ]


def apply_criteria(figures: Figures) -> list[dict[str, Any]]:
    """Apply the kill criteria: an idea dies unless its regret is clearly below the other's."""
    table = []
    for idea, model, other in KILLS:
        if model in figures.models and other in figures.models:
            difference = figures.difference((model, ALWAYS), (other, ALWAYS))
            table.append(
                {
                    "idea": idea,
                    "model": model,
                    "other": other,
                    "difference": difference,
                    "killed": not is_below(difference),
                }
            )
    for entry in compare_gates(figures):
        if entry["other"] == HALTING:
            difference = [None if v is None else -v for v in entry["difference"]]
            difference = [difference[0], difference[2], difference[1]]
            table.append(
                {
                    "idea": "halting by convergence",
                    "model": entry["model"],
                    "other": "the entropy gate at equal steps",
                    "difference": difference,
                    "killed": not is_below(difference),
                }
            )
    return table


def is_below(difference: Sequence[float | None]) -> bool:
    """Return true if the interval of a difference lies below 0."""
    return excludes_zero(difference) and (difference[0] or 0.0) < 0
