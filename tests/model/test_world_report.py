"""The known world's report: gaps by hand, and the whole of it in miniature."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.world import TOPICS, Law
from model.world_report import gaps

ROOT = Path(__file__).parents[2]


def test_a_gap_is_what_the_second_best_next_item_loses():
    indifferent = Law(fatigue=0.0, attraction=0.0, abandon=0.0)
    topic = np.eye(TOPICS)[None, [0, 1, 2]]
    appeal = np.array([[2.0, 0.0, 0.0]])
    found = gaps(indifferent, appeal, topic, np.array([[0, 1]]))
    p = 1.0 / (1.0 + np.exp(-appeal[0]))
    # Without effects order is nothing: any first item can still be followed by item 0.
    assert found[0] == pytest.approx([0.0, 0.0])
    found = gaps(indifferent, appeal, topic, np.array([[1, 0]]))
    assert found[0] == pytest.approx([0.0, p[0] - p[2]])


def test_the_report_runs_in_miniature_and_counts_regret_from_the_best(tmp_path):
    command = [sys.executable, "-m", "model", "world", "--smoke", "--seeds", "1",
               "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    first = (tmp_path / "out" / "world.json").read_bytes()
    regret = {
        row["model"]: row["value"] for row in json.loads(first)["rows"] if row["metric"] == "regret"
    }
    assert regret["best of all"] == 0.0
    assert 0.05 < regret["sort by appeal"] < regret["random order"] < 0.7
    assert all(regret[f"{host} {name}"] > 0 for host in ("gru", "pointer", "transformer")
               for name in ("host", "eglr"))  # fmt: skip
    gates = json.loads(first)["gates"]
    steps = [point["steps"] for point in gates if point["host"] == "gru"]
    assert steps == sorted(steps, reverse=True)
    assert (steps[0], steps[-1]) == (12.0, 0.0)  # all of 4 x 3, none
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)  # now from its cache
    assert (tmp_path / "out" / "world.json").read_bytes() == first
    assert (tmp_path / "out" / "world.png").stat().st_size > 1000
    asked = [*command, "--run", str(tmp_path / "cache" / "gru" / "seed0" / "eglr")]
    done = subprocess.run(asked, check=True, cwd=ROOT, capture_output=True, text=True)
    mean, low, high = json.loads(done.stdout)["regret"]
    assert low < mean < high
    assert mean == pytest.approx(regret["gru eglr"], abs=1e-6)
