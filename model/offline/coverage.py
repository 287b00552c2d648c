"""Measure how often intervals hold the truth and verdicts are right, over pairs of policies.

Every pair leaves its figures in the cache, so an interrupted command resumes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from model.data.errors import DataError
from model.offline.agreement import agree
from model.offline.commands import Coverage
from model.offline.comparison import DOUBLY_ROBUST, ESTIMATORS, VERDICTS, Comparison, compare
from model.offline.report import plot_coverage
from model.offline.world import LISTS_PER_USER, Population, draw_pair
from model.study.commands import cache_directory, command_line, report_directory
from model.study.pages import provenance, render

Record = dict[str, Any]
USERS = (150, 300, 600)  # logged ones, of a pair in turn
POPULATION, SMOKE_POPULATION = 150, 8  # users
LOG_SEED, NULL_SEED = 100_000, 200_000  # added to a pair's: draws of their own
LARGE = 3.0  # standard errors of a difference that a verdict should recognise
# The range of each share that the method must keep to.
GOALS = {
    "coverage": (0.90, 0.99),
    "wrong": (0.0, 0.05),
    "decided_of_large": (0.5, 1.0),
    "null_undecided": (0.90, 1.0),
}


def report(options: Coverage) -> None:
    """Fill the missing pairs, and write compare.json, compare.md and the plot.

    Raises DataError if the cache is of another population.
    """
    out = report_directory(options.out, options.smoke)
    cache = cache_directory(options.cache, options.smoke, "coverage")
    cache.mkdir(parents=True, exist_ok=True)
    users = SMOKE_POPULATION if options.smoke else POPULATION
    check_setting(cache, {"population": users, "lists_per_user": LISTS_PER_USER, "users": USERS})
    population = Population.draw(users, seed=0)
    pairs = [
        pair_of(population, seed, cache)
        for seed in tqdm(range(options.pairs), desc="pairs", disable=None)
    ]
    payload: dict[str, Any] = {
        "made": provenance(command_line("coverage", options)),
        "population": {"users": population.users, "lists": len(population.appeal)},
        "seconds": round(sum(pair["seconds"] for pair in pairs), 1),
        **summarise(pairs),
        "obp": agreement_of(options, population, out / "compare.json"),
        "pairs": pairs,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.json").write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    (out / "compare.md").write_text(render("compare.md.jinja", **payload), encoding="utf-8")
    plot_coverage(payload, out / "compare.png")
    print_summary(payload)


def check_setting(cache: Path, setting: Mapping[str, Any]) -> None:
    """Record the setting of a cache. Raises DataError if its pairs were made with another one."""
    path, text = cache / "setting.json", json.dumps(setting, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise DataError(path, f"must be {text}; choose another --cache or delete this one")
    path.write_text(text, encoding="utf-8")


def pair_of(population: Population, seed: int, cache: Path) -> Record:
    """Return the figures of one pair, from the cache or by comparing it."""
    path = cache / f"{seed:04d}.json"
    if not path.exists():
        began = time.process_time()
        figures = compare_pair(population, seed)
        figures["seconds"] = round(time.process_time() - began, 3)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(figures), encoding="utf-8")
        os.replace(temporary, path)
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(figures, dict)
    return figures


def compare_pair(population: Population, seed: int) -> Record:
    """Log a pair's first policy, compare both on the log, and once more with permuted rewards."""
    old, new = draw_pair(seed)
    users = USERS[seed % len(USERS)]
    decisions, lists = population.log(old, users, LOG_SEED + seed)
    of_old = population.target("old", old, decisions, lists)
    of_new = population.target("new", new, decisions, lists)
    comparison = compare(decisions, of_old, of_new, seed=seed)
    # Rewards of other lists: no policy earns more than another, whatever it chooses.
    order = np.random.default_rng(NULL_SEED + seed).permutation(len(lists))
    permuted = dataclasses.replace(decisions, reward=decisions.reward[order])
    return {
        "seed": seed, "users": users, "lists": len(lists),
        "truth": population.value(new) - population.value(old),
        "estimates": {
            name: {"difference": each.difference, "deviation": each.deviation}
            for name, each in comparison.estimates.items()
        },
        "effective": effective_of(comparison),
        "verdict": comparison.verdict, "reasons": comparison.reasons,
        "null_verdict": compare(permuted, of_old, of_new, seed=seed).verdict,
    }  # fmt: skip


def effective_of(comparison: Comparison) -> float:
    """Return the smallest effective number of lists."""
    return min(control.effective for control in comparison.controls)


def summarise(pairs: Sequence[Record]) -> dict[str, Any]:
    """Return the coverage of every estimator, the verdicts, and if the goals are kept."""
    coverage = {}
    for name in ESTIMATORS:
        ends = np.array([pair["estimates"][name]["difference"] for pair in pairs])
        truth = np.array([pair["truth"] for pair in pairs])
        covered = (ends[:, 1] <= truth) & (truth <= ends[:, 2])
        coverage[name] = {
            **share(int(covered.sum()), len(pairs)),
            "bias": float((ends[:, 0] - truth).mean()),
            "rmse": float(np.sqrt(((ends[:, 0] - truth) ** 2).mean())),
        }
    decided = [pair for pair in pairs if pair["verdict"] != "cannot tell"]
    wrong = [pair for pair in decided if (pair["verdict"] == "better") != (pair["truth"] > 0)]
    large = [
        pair
        for pair in pairs
        if abs(pair["truth"]) > LARGE * pair["estimates"][DOUBLY_ROBUST]["deviation"]
    ]
    undecided = [pair for pair in pairs if pair["null_verdict"] == "cannot tell"]
    shares = {
        "coverage": coverage[DOUBLY_ROBUST],
        "wrong": share(len(wrong), len(decided)),
        "decided_of_large": share(
            sum(pair["verdict"] != "cannot tell" for pair in large), len(large)
        ),
        "null_undecided": share(len(undecided), len(pairs)),
    }
    return {
        "coverage": coverage,
        "verdicts": {
            verdict: sum(pair["verdict"] == verdict for pair in pairs) for verdict in VERDICTS
        },
        "shares": shares,
        "goals": {
            name: {"range": goal, "kept": None if each["of"] == 0 else holds(each["share"], goal)}
            for name, goal in GOALS.items()
            for each in (shares[name],)
        },
    }


def share(count: int, total: int) -> dict[str, Any]:
    """Return a count as a share; None of nothing."""
    return {"count": count, "of": total, "share": count / total if total else None}


def holds(value: float, ends: tuple[float, float]) -> bool:
    """Tell if a value lies in a range."""
    return ends[0] <= value <= ends[1]


def agreement_of(options: Coverage, population: Population, path: Path) -> Any:
    """Return the agreement with obp, measured or kept from the last report; None without."""
    if options.obp:
        return agree(population, USERS[0], 0, options.obp_environment)
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8")).get("obp")
    return None


def print_summary(payload: Mapping[str, Any]) -> None:
    """Print a line for each estimator and each goal."""
    for name, each in payload["coverage"].items():
        print(
            f"{name}: 95 % intervals hold the truth in {each['count']} of {each['of']}, "
            f"bias {each['bias']:+.4f}, rmse {each['rmse']:.4f}"
        )
    for name, goal in payload["goals"].items():
        each, (low, high) = payload["shares"][name], goal["range"]
        print(f"{name}: {each['count']} of {each['of']}, goal {low:.0%} to {high:.0%}: "
              f"{goal['kept']}")  # fmt: skip
