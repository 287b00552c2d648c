"""The simulated environment's report: gaps by hand, and miniature runs of both rewards."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.dataset import Dataset
from model.learning import checkpoint
from model.learning.policy import Policy
from model.study import plots
from model.study.click_model import TOPICS, ClickModel, appeals_and_topics
from model.study.world_cells import gaps

ROOT = Path(__file__).parents[3]


def test_a_gap_is_the_loss_of_the_second_best_next_item():
    indifferent = ClickModel(fatigue=0.0, attraction=0.0, abandon=0.0)
    topic = np.eye(TOPICS)[None, [0, 1, 2]]
    appeal = np.array([[2.0, 0.0, 0.0]])
    differences = gaps(indifferent, appeal, topic, np.array([[0, 1]]))
    p = 1.0 / (1.0 + np.exp(-appeal[0]))
    # Without effects of order any first item can still be followed by item 0.
    assert differences[0] == pytest.approx([0.0, 0.0])
    differences = gaps(indifferent, appeal, topic, np.array([[1, 0]]))
    assert differences[0] == pytest.approx([0.0, p[0] - p[2]])


@pytest.mark.long
def test_the_report_runs_in_miniature_and_counts_regret_from_the_best(tmp_path):
    command = [sys.executable, "-m", "model", "world", "--smoke", "--seeds", "1",
               "--hosts", "gru", "pointer",
               "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    first = (tmp_path / "out" / "world.json").read_bytes()
    regret = {
        row["model"]: row["value"] for row in json.loads(first)["rows"] if row["metric"] == "regret"
    }
    assert regret["best of all"] == 0.0
    assert 0.05 < regret["sort by appeal"] < regret["random order"] < 0.7
    assert all(regret[f"{host} {name}"] > 0 for host in ("gru", "pointer")
               for name in ("host", "eglr"))  # fmt: skip
    gates = json.loads(first)["gates"]
    steps = [point["steps"] for point in gates if point["host"] == "gru"]
    assert steps == sorted(steps, reverse=True)
    assert (steps[0], steps[-1]) == (12.0, 0.0)  # all of 4 x 3, none
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)  # from its cache
    assert (tmp_path / "out" / "world.json").read_bytes() == first
    assert (tmp_path / "out" / "world.png").stat().st_size > 1000
    measure = [*command, "--run", str(tmp_path / "cache" / "gru" / "seed0" / "eglr")]
    done = subprocess.run(measure, check=True, cwd=ROOT, capture_output=True, text=True)
    mean, low, high = json.loads(done.stdout)["regret"]
    assert low < mean < high
    assert mean == pytest.approx(regret["gru eglr"], abs=1e-6)


def test_a_host_that_no_colour_is_entered_for_is_plotted_in_grey(tmp_path, monkeypatch):
    payload = json.loads((ROOT / "docs/reports/world.json").read_text(encoding="utf-8"))
    renamed = json.loads(json.dumps(payload).replace('"pointer', '"mlp'))
    drawn: list[str] = []

    original = plots.colour

    def colour(model):
        drawn.append(model)
        return original(model)

    monkeypatch.setattr(plots, "colour", colour)
    plots.plot_world(renamed, tmp_path / "world.png")
    # Regret on the left, ambiguity in the middle; gates on the right have EGLR only.
    assert (drawn.count("mlp host"), drawn.count("mlp eglr")) == (2, 3)
    assert original("mlp host") == plots.OTHER_COLOUR
    assert (tmp_path / "world.png").stat().st_size > 1000


@pytest.mark.long
def test_reward_law_trains_no_evaluator_and_selects_by_expected_clicks(tmp_path):
    command = [sys.executable, "-m", "model", "world", "--smoke", "--seeds", "1", "--reward", "law",
               "--hosts", "gru",
               "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert not (tmp_path / "cache" / "evaluator").exists()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "world_law.json", "world_law.md", "world_law.png"]  # fmt: skip
    markdown = (tmp_path / "out" / "world_law.md").read_text(encoding="utf-8")
    assert "rewarded by the click model" in markdown
    assert "](world_law.png)" in markdown
    run = tmp_path / "cache" / "gru" / "seed0" / "host"
    dataset, trained = Dataset(tmp_path / "cache" / "data"), checkpoint.load(run)
    valid = dataset.lists(["valid"]).rankable()
    policy = Policy(trained.config, trained.generator, trained.threshold)
    slate = torch.cat([d.slate for d in policy.greedy_slates(valid, 0)]).numpy()
    appeal, topic = (array[valid.rows - dataset.lists(["valid"]).rows[0]]
                     for array in appeals_and_topics(dataset, "valid"))  # fmt: skip
    # The click model's expected clicks selected the epoch, not a network's estimate.
    selected = trained.state.validation["final"]["utility"]
    assert selected == pytest.approx(
        ClickModel().expected_clicks(appeal, topic, slate).mean(), abs=1e-5
    )
