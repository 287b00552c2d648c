"""Compare our weighting with obp's three IPS estimators on the same data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from model.offline.decisions import Decisions
from model.offline.estimators import weighted_reward
from model.offline.world import Population, draw_pair

Array = np.ndarray[Any, Any]
REQUIREMENTS = Path(__file__).with_name("obp.txt")
CHILD = Path(__file__).with_name("obp_child.py")
PIP = "26.1"  # of the environment


def install(home: Path) -> Path:
    """Make obp's environment unless it has these pins already, and return its interpreter.

    Raises CalledProcessError if a package cannot be installed.
    """
    python, installed = home / "bin" / "python", home / ".installed"
    pins = REQUIREMENTS.read_text("utf-8")
    if not installed.exists() or installed.read_text("utf-8") != pins:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, f"pip=={PIP}"], check=True)
        # obp pins versions of its plots and of torch, which its slate estimators do not use.
        subprocess.run([*pip, "--no-deps", "--requirement", str(REQUIREMENTS)], check=True)
        installed.write_text(pins, "utf-8")
    return python


def propensities(
    population: Population, users: int, seed: int
) -> tuple[Decisions, dict[str, tuple[Array, Array]]]:
    """Return a log, and by obp's estimator the propensities [R, K] as logged and evaluated."""
    old, new = draw_pair(seed)
    decisions, lists = population.log(old, users, seed)
    target = population.target("new", new, decisions, lists)
    logged, evaluated = (
        np.exp(np.cumsum(each, axis=1)) for each in (decisions.logprob, target.logprob)
    )
    place = np.arange(len(lists))[:, None], np.arange(population.length), decisions.slate
    of_old, of_new = (population.marginals(each)[lists][place] for each in (old, new))
    whole = [np.broadcast_to(each[:, -1:], each.shape) for each in (logged, evaluated)]
    return decisions, {
        "standard IPS": (whole[0], whole[1]),
        "independent IPS": (of_old, of_new),
        "prefix IPS": (logged, evaluated),
    }


def agree(population: Population, users: int, seed: int, home: Path) -> list[dict[str, Any]]:
    """Return both values of each estimator. Raises CalledProcessError if obp fails."""
    decisions, scores = propensities(population, users, seed)
    python, path = install(home), home / "arrays.npz"
    arrays = {"reward": decisions.reward}
    for name, (logged, evaluated) in scores.items():
        arrays |= {f"{name} logged": logged, f"{name} evaluated": evaluated}
    np.savez(path, allow_pickle=False, **arrays)
    done = subprocess.run(
        [str(python), "-I", str(CHILD), str(path)], capture_output=True, text=True, check=True
    )
    of_obp = json.loads(done.stdout)
    rows = []
    for name, (logged, evaluated) in scores.items():
        ours = weighted_reward(evaluated / logged, decisions).value
        rows.append({"estimator": name, "ours": ours, "obp": of_obp[name]})
    return rows
