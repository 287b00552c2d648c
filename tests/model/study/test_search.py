"""The measurement of learning from search keeps finished cells and compares with the host."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.learning import checkpoint
from model.network.config import ConfigError
from model.study import search
from model.study.search import GATES, report, summarise
from model.study.search_command import Search

CONFIG = Path("model/configs/search.yaml")


def test_a_miniature_measures_every_gate_and_trains_no_finished_cell_again(
    warm_ranklens, tmp_path, capsys, monkeypatch
):
    command = Search(warm_ranklens, CONFIG, tmp_path / "out", tmp_path / "cache", 1, smoke=True)
    report(command)
    payload = json.loads((tmp_path / "out" / "search.json").read_text())
    rows = {(row["model"], row["gate"]): row for row in payload["rows"]}
    assert [*rows] == [("host", "none"), *(("EGLR", gate) for gate in GATES)]
    steps = [rows["EGLR", gate]["steps"][0] for gate in GATES]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0.0, 4 * 2)
    for row in rows.values():
        assert -1e-6 < row["regret"][0] < 1
        assert 0 <= row["agreement"][0] <= 1
    lines = capsys.readouterr().out.splitlines()
    printed = [json.loads(line) for line in lines if line.startswith("{")]
    assert printed[0]["regret"] == pytest.approx(rows["host", "none"]["regret"][0], abs=1e-6)

    monkeypatch.setattr(search, "train", lambda *_: pytest.fail("trained a finished cell"))
    report(command)
    assert json.loads((tmp_path / "out" / "search.json").read_text())["rows"] == payload["rows"]
    other = tmp_path / "other.yaml"
    other.write_text(CONFIG.read_text().replace("alpha: 0.5", "alpha: 0.9"))
    changed = Search(warm_ranklens, other, tmp_path / "out", tmp_path / "cache", 1, smoke=True)
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        report(changed)


def test_differences_are_paired_with_the_host_of_the_same_seed():
    draw = np.random.default_rng(0)
    keys = [f"{gate} {figure}" for gate in GATES for figure in search.figures_of()]
    host = {key: draw.normal(size=(2, 50)) for key in keys}
    cells = {("host", seed): {key: host[key][seed] for key in keys} for seed in range(2)}
    cells |= {
        ("EGLR", seed): {f"{g} {f}": host[f"none {f}"][seed] - 0.1 for g in GATES
                         for f in search.figures_of()}
        for seed in range(2)
    }  # fmt: skip
    for row in summarise(cells, 2):
        if row["model"] == "EGLR":
            assert row["regret - host"] == pytest.approx([-0.1] * 3)
            low, high = row["regret"][1:]
            assert high - low > 0.05  # the lists themselves differ


def test_an_unknown_model_and_a_configuration_without_search_are_refused(warm_ranklens, tmp_path):
    places = tmp_path / "out", tmp_path / "cache"
    command = Search(warm_ranklens, CONFIG, *places, models=("EGRL",), smoke=True)
    with pytest.raises(ConfigError, match=r"--models: must be one of host, EGLR, .*, got 'EGRL'"):
        report(command)
    plain = Search(warm_ranklens, Path("model/configs/ranklens.yaml"), *places, smoke=True)
    with pytest.raises(ConfigError, match=r"ranklens\.yaml: search: required"):
        report(plain)
