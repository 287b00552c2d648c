"""Estimate policies with obp, in an environment of its own, and print JSON.

It shares no code with what it checks.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

ESTIMATORS = {
    "standard IPS": ("SlateStandardIPS", ""),
    "independent IPS": ("SlateIndependentIPS", "_item_position"),
    "prefix IPS": ("SlateRewardInteractionIPS", "_cascade"),
}


def load_estimators() -> Any:
    """Import obp's module of slate estimators alone: the rest of obp.ope needs torch."""
    specification = importlib.util.find_spec("obp")
    assert specification is not None
    assert specification.origin is not None
    package = types.ModuleType("obp.ope")
    package.__path__ = [str(Path(specification.origin).parent / "ope")]
    sys.modules["obp.ope"] = package
    torch = types.ModuleType("torch")  # obp.utils names its tensors in annotations
    torch.Tensor = object  # type: ignore[attr-defined]
    sys.modules["torch"] = torch
    return importlib.import_module("obp.ope.estimators_slate")


def main(path: str) -> None:
    """Print the value of each estimator."""
    with np.load(path) as file:
        arrays = dict(file)
    module, values = load_estimators(), {}
    lists, positions = arrays["reward"].shape
    common = {
        "slate_id": np.arange(lists).repeat(positions),
        "reward": arrays["reward"].ravel(),
        "position": np.tile(np.arange(positions), lists),
    }
    for name, (kind, suffix) in ESTIMATORS.items():
        scores = {
            f"pscore{suffix}": arrays[f"{name} logged"].ravel(),
            f"evaluation_policy_pscore{suffix}": arrays[f"{name} evaluated"].ravel(),
        }
        values[name] = float(
            getattr(module, kind)(len_list=positions).estimate_policy_value(**common, **scores)
        )
    print(json.dumps(values))


if __name__ == "__main__":
    main(sys.argv[1])
