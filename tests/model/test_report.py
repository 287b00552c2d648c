"""The report's arithmetic on cells made up here, and the whole of it in miniature."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.report import NAMES, render, save, summarise

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path):
    """Two seeds of 50 lists; eglr_s3 is better than its host by .1 on every list."""
    draw = np.random.default_rng(0)
    for split in ("warm", "cold"):
        for seed in range(2):
            base = draw.random(50) * 0.5
            for number, name in enumerate(NAMES):
                directory = tmp_path / split / f"seed{seed}"
                directory.mkdir(parents=True, exist_ok=True)
                lift = 0.1 if name == "eglr_s3" else 0.0
                arrays = dict.fromkeys(("ndcg@5", "ndcg@10", "map@10"), base + lift)
                if number > 3:
                    arrays |= {
                        "reasoning_steps": np.full(50, 2.0),
                        "steps_by_position": np.full(10, 0.2),
                        "entropy_before": np.linspace(3, 1, 10),
                        "entropy_after": np.linspace(2.9, 1, 10),
                        "threshold": np.array(2.5),
                        "train_seconds": np.array(60.0),
                    }
                save(directory / f"{name}.npz", arrays)
    return tmp_path


def test_a_paired_difference_is_exact_where_every_list_gains_the_same(cache):
    summary = summarise(cache, 2, 3)
    found = {(c["split"], c["model"], c["against"], c["metric"]): c for c in summary["comparisons"]}
    gain = found["warm", "eglr_s3", "host", "ndcg@10"]
    assert [gain[k] for k in ("mean_difference", "low", "high")] == pytest.approx([0.1] * 3)
    none = found["warm", "eglr_s1", "host", "ndcg@10"]
    assert [none[k] for k in ("mean_difference", "low", "high")] == [0.0] * 3


def test_rows_hold_every_model_seed_and_metric_once(cache):
    rows = summarise(cache, 2, 3)["rows"]
    keys = [(r["dataset"], r["split"], r["model"], r["seed"], r["metric"]) for r in rows]
    assert len(keys) == len(set(keys)) == 2 * 2 * (len(NAMES) * 3 + 3)


def test_the_text_shows_the_figures_of_the_table(cache):
    summary = summarise(cache, 2, 3)
    text = render(summary)
    row = next(e for e in summary["table"] if e["split"] == "cold" and e["model"] == "host")
    assert f"{row['ndcg@10'][0]:.4f}" in text
    assert "+0.1000 [+0.1000, +0.1000]" in text


def test_the_report_runs_in_miniature_and_again_from_its_cache(tmp_path):
    run = [sys.executable, "-m", "model"]
    data = str(tmp_path / "data")
    subprocess.run([*run, "prepare", "ranklens", "--out", data], check=True, cwd=ROOT,
                   capture_output=True)  # fmt: skip
    command = [*run, "report", "--smoke", "--seeds", "1", "--data", data,
               "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    first = (tmp_path / "out" / "quality.json").read_bytes()
    summary = json.loads(first)
    assert {r["model"] for r in summary["rows"]} >= {"random", "lambdamart", "host", "eglr_s1"}
    random = [
        r["value"] for r in summary["rows"] if r["model"] == "random" and r["metric"] == "ndcg@10"
    ]
    assert all(0.1 < value < 0.3 for value in random)  # slates of 4, ideal of the whole list
    assert (tmp_path / "out" / "entropy.png").stat().st_size > 1000
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert (tmp_path / "out" / "quality.json").read_bytes() == first
