"""The scale report in miniature."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model.data.dataset import Dataset
from model.learning.state import current_commit
from model.study import scale_evaluate, scale_join
from model.study.commands import Scale
from model.study.pages import short_commit

ROOT = Path(__file__).parents[3]


@pytest.mark.long
def test_the_scale_page_has_the_figures_of_its_json(tmp_path):
    command = [sys.executable, "-m", "model", "scale", "--smoke", "--rows", "3000",
               "--out", str(tmp_path), "--cache", str(tmp_path / "cache")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (size,) = json.loads((tmp_path / "scale.json").read_text())
    assert size["rows"] == 3000
    assert set(size["train"]["result"]) == {"evaluator", "warm_start", "grpo"}
    page = (tmp_path / "scale.md").read_text()
    assert f"| {size['train']['result']['grpo']:,.0f} |" in page
    assert f"{size['featurise']['peak']:,.0f} MB" in page
    assert list((tmp_path / "cache").iterdir()) == []  # the logs were removed


def test_the_page_of_the_evaluation_has_a_row_for_each_number_of_test_lists(tmp_path, monkeypatch):
    def in_process(_task, _bundle, data):
        dataset = Dataset(data)
        tests = len(dataset.requests(["test"]))
        assert dataset.fresh_features(["test"]) == ["like_rate"]
        return {"result": {"lists": tests - 1}, "seconds": 2.0, "peak": 250.0}

    monkeypatch.setattr(scale_evaluate, "make_bundle", lambda *_: tmp_path / "bundle")
    monkeypatch.setattr(scale_evaluate, "in_process", in_process)
    for sizes in ((300,), (40,)):  # the second run keeps what the first one measured
        Scale(test_lists=sizes, out=tmp_path / "out", cache=tmp_path / "cache").execute()
    page = (tmp_path / "out" / "scale_evaluate.md").read_text()
    commit = short_commit(current_commit())
    small, large = "| 40 | 39 | 2 | 20 | 250 MB |", "| 300 | 299 | 2 | 150 | 250 MB |"
    assert f"{small} {commit} |\n{large} {commit} |" in page
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_join_is_measured_on_a_journal_of_the_stated_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale_join, "PART", 200)
    earlier = {"decisions": 1000, "seconds": 7.0}  # stays: this run does not measure it
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "join.json").write_text(json.dumps([earlier]))
    Scale(join=(300,), out=tmp_path / "out", cache=tmp_path / "cache").execute()
    size, other = json.loads((tmp_path / "out" / "join.json").read_text())
    assert other == earlier
    counts = size["counts"]
    assert (size["parts"], counts["lists"], counts["events: joined"]) == (2, 300, 600)
    assert counts["impressions"] == 300 * scale_join.SLATE
    figures = f"{size['seconds']:,.0f} s, {size['peak_mb']:,.0f} MB at most"
    assert f"300 decisions, 6,000 rows: {figures}" in capsys.readouterr().out
    assert size["peak_mb"] > 0
    assert list((tmp_path / "cache").iterdir()) == []
