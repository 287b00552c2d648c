"""The arithmetic and the page of the quality report on made-up cells, and a miniature run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.network.config import ConfigError
from model.study.commands import Report
from model.study.grid import save
from model.study.plots import plot_entropy
from model.study.report import page, report
from model.study.summary import SECTIONS, equal_latency, read_cells, summarise
from model.study.variants import CONTROLS, IDEAS, NEURAL, SLATES, Study, select

ROOT = Path(__file__).parents[3]
MADE = {
    "made": {"command": "python -m model report", "commit": "0" * 40, "machine": "x86_64"},
    "setting": {"budget": 3},
}
MODELS = ("LambdaMART", *NEURAL, *CONTROLS, *IDEAS, "best of M")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Write cells of two seeds with 50 lists; transformer EGLR beats its host by .1 on each."""
    draw, tmp_path = np.random.default_rng(0), tmp_path_factory.mktemp("cache")
    studies = [
        Study("ranklens", split, "stand-alone", seed, tmp_path, MODELS)
        for split in ("warm", "cold")
        for seed in range(2)
    ]
    for study in studies:
        base = draw.random(50) * 0.5
        study.directory(tmp_path).mkdir(parents=True)
        for model in MODELS:
            lift = 0.1 if model == "transformer EGLR" else 0.0
            arrays = dict.fromkeys(("ndcg@5", "ndcg@10", "map@10", "utility"), base + lift)
            arrays["train_seconds"] = np.array(60.0)
            if model == "best of M":
                arrays = {
                    name: draw.random((4, len(SLATES), 50)) for name in ("ndcg@10", "utility")
                }
                # Twice the slates take twice the time; three steps take five times as long.
                arrays["seconds"] = np.array(
                    [[[m * t] * 50 for m in SLATES] for t in (1e-3, 2e-3, 4e-3, 5e-3)]
                )
            elif model != "LambdaMART":
                arrays |= {
                    "reasoning_steps": np.full(50, 2.0),
                    "steps_by_position": np.full(10, 0.2),
                    "entropy_before": 3 - 0.1 * np.abs(np.arange(10) - 4),
                    "entropy_after": np.full(10, 2.5),
                    "threshold": np.array(2.5),
                    "validation": np.array(0.61 if model == "learned token" else 0.6),
                    "grpo_kept": np.array(float(study.seed == 1)),
                }
            save(study.directory(tmp_path) / f"{model}.npz", arrays)
    return studies, tmp_path


def tables_of(summary, split):
    """Return title -> model -> entry of one split."""
    tables: dict[str, dict[str, Any]] = {}
    for entry in summary["tables"]:
        if entry["split"] == split:
            tables.setdefault(entry["title"], {})[entry["model"]] = entry
    return tables


@pytest.fixture(scope="module")
def summary(made):
    return summarise(read_cells(*made))


def test_a_paired_difference_is_exact_where_every_list_gains_the_same(summary):
    differences = {
        (c["split"], c["model"], c["against"], c["metric"]): c for c in summary["comparisons"]
    }
    gain = differences["warm", "transformer EGLR", "transformer host", "ndcg@10"]
    assert [gain[k] for k in ("mean_difference", "low", "high")] == pytest.approx([0.1] * 3)
    assert gain["p"] < 0.001
    none = differences["warm", "transformer EGLR S=1", "transformer host", "ndcg@10"]
    assert [none[k] for k in ("mean_difference", "low", "high", "p")] == [0.0, 0.0, 0.0, 1.0]


def test_every_control_and_idea_is_compared_with_the_plain_host_and_with_eglr(summary):
    compared = {(c["model"], c["against"]) for c in summary["comparisons"]}
    assert compared >= {
        (c, a) for c in (*CONTROLS, *IDEAS) for a in ("transformer host", "transformer EGLR")
    }


def test_rows_hold_every_model_seed_and_metric_once(summary):
    keys = [(r["dataset"], r["split"], r["track"], r["model"], r["seed"], r["metric"])
            for r in summary["rows"]]  # fmt: skip
    neural = len(NEURAL) + len(CONTROLS) + len(IDEAS)
    assert len(keys) == len(set(keys)) == 2 * 2 * (4 + 7 * neural)


def test_an_unfinished_model_has_no_row_and_the_others_keep_theirs(made, tmp_path):
    studies, cache = made
    shutil.copytree(cache, tmp_path / "cache")
    (studies[0].directory(tmp_path / "cache") / "gru EGLR.npz").unlink()
    rows = summarise(read_cells(studies, tmp_path / "cache"))["rows"]
    seeds = {(r["model"], r["seed"]) for r in rows if r["split"] == "warm"}
    assert ("gru EGLR", 0) not in seeds
    assert {("gru EGLR", 1), ("gru host", 0)} <= seeds


def test_the_rows_of_a_table_are_means_over_the_same_seeds(made, tmp_path):
    studies, cache = made
    shutil.copytree(cache, tmp_path / "cache")
    (studies[0].directory(tmp_path / "cache") / "zero token.npz").unlink()
    tables = tables_of(summarise(read_cells(studies, tmp_path / "cache")), "warm")
    assert {row["seeds"] for row in tables["Controls"].values()} == {1}
    assert {row["seeds"] for row in tables["main"].values()} == {2}
    second = np.load(studies[1].directory(cache) / "transformer host.npz")["ndcg@10"].mean()
    assert tables["Controls"]["transformer host"]["ndcg@10"][0] == pytest.approx(second, abs=1e-6)
    assert tables["main"]["transformer host"]["ndcg@10"][0] != pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize("left", [("LambdaMART",), ("zero token", "gru EGLR")])
def test_a_page_of_a_few_cells_has_only_their_rows(made, tmp_path, left):
    studies, cache = made
    for study in studies[:2]:
        study.directory(tmp_path).mkdir(parents=True)
        for model in left:
            name = f"{model}.npz"
            shutil.copy(study.directory(cache) / name, study.directory(tmp_path) / name)
    cells = read_cells(studies, tmp_path)
    summary = summarise(cells)
    text = page({**MADE, **summary})
    plot_entropy(summary["positions"], SECTIONS, tmp_path / "entropy.png")
    assert all(f"| {model} | 2 |" in text for model in left)
    assert "transformer host" not in text.split("## Which")[0]


def test_models_without_a_seed_in_common_are_not_compared(made, tmp_path):
    studies, cache = made
    shutil.copytree(cache, tmp_path / "cache")
    (studies[0].directory(tmp_path / "cache") / "gru host.npz").unlink()
    (studies[1].directory(tmp_path / "cache") / "gru EGLR.npz").unlink()
    summary = summarise(read_cells(studies[:2], tmp_path / "cache"))
    assert ("gru EGLR", "gru host") not in {
        (c["model"], c["against"]) for c in summary["comparisons"]
    }
    assert "main" not in tables_of(summary, "warm")
    page({**MADE, **summary})


def test_the_page_counts_the_seeds_that_kept_an_epoch_of_grpo(summary):
    lines = page({**MADE, **summary}).splitlines()
    row = next(line.split(" | ") for line in lines if line.startswith("| gru host |"))
    assert row[5:7] == ["0.6000", "1/2"]


def test_the_page_has_the_figures_of_the_table(summary):
    text = page({**MADE, **summary})
    entry = tables_of(summary, "cold")["main"]["gru host"]
    assert f"| gru host | 2 | {entry['ndcg@5'][0]:.4f}" in text
    assert "+0.1000 [+0.1000, +0.1000]" in text
    assert all(f"| {name} |" in text for name in (*CONTROLS, *IDEAS))


def test_the_page_gives_the_position_of_highest_entropy_and_its_change(summary):
    text = page({**MADE, **summary})
    row = "| ranklens, warm, stand-alone | gru EGLR | 2.600, 3.000 (4), 2.500 | -0.250, -0.500 |"
    assert row in text


def test_variants_are_sorted_by_validation_less_eglrs_not_by_test_lists(summary):
    text = page({**MADE, **summary})
    section = text.split("## Which configuration to serve")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "0." in line]
    assert rows[0] == "| learned token | 2 | +0.0100 |"
    assert "| transformer host | 2 | +0.0000 |" in rows[1:]  # its test lists are worse by .1


def test_an_empty_cache_raises_with_its_path(tmp_path):
    command = Report(
        config=ROOT / "model" / "configs" / "ranklens.yaml", data=tmp_path, movielens=tmp_path,
        cache=tmp_path / "cache", out=tmp_path, seeds=1, no_training=True,
    )  # fmt: skip
    with pytest.raises(FileNotFoundError, match="cache: no finished cell"):
        report(command)


def test_equal_latency_takes_the_hosts_largest_m_within_eglrs_time(summary):
    # EGLR's slate takes 5 ms, the host 1 ms per slate: 4 is the largest of 1, 2, 4, 8, 16.
    pair = equal_latency(summary["curves"])
    assert pair is not None
    eglr, host = pair
    assert (eglr["budget"], eglr["slates"], eglr["ms"]) == (3, 1, 5.0)
    assert (host["budget"], host["slates"], host["ms"]) == (0, 4, 4.0)


def test_the_report_runs_in_miniature_and_again_from_its_cache(tmp_path):
    run = [sys.executable, "-m", "model"]
    data = str(tmp_path / "data")
    subprocess.run([*run, "prepare", "ranklens", "--out", data], check=True, cwd=ROOT,
                   capture_output=True)  # fmt: skip
    command = [*run, "report", "--smoke", "--seeds", "1", "--data", data,
               "--movielens", str(tmp_path / "absent"),
               "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    first = (tmp_path / "out" / "quality.json").read_bytes()
    summary = json.loads(first)
    assert {r["model"] for r in summary["rows"]} >= {
        "random order",
        "LambdaMART",
        "transformer host",
        "gru EGLR",
        "zero token",
    }
    random = [
        r["value"]
        for r in summary["rows"]
        if r["model"] == "random order" and r["metric"] == "ndcg@10"
    ]
    # NDCG@10 is low, because slates of 4 are compared with the ideal of the list.
    assert all(0.1 < value < 0.3 for value in random)
    for plot in ("entropy.png", "best_of_m.png"):
        assert (tmp_path / "out" / plot).stat().st_size > 1000
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert (tmp_path / "out" / "quality.json").read_bytes() == first


def test_only_the_named_models_are_trained_and_unknown_names_are_refused(tmp_path):
    studies = [
        Study("ranklens", "warm", "stand-alone", 0, tmp_path, ("LambdaMART", "gru host")),
        Study("ranklens", "warm", "stand-alone", 0, tmp_path, ("best of M",)),
    ]
    assert select(studies) == select(studies, ("warm, stand-alone",)) == studies
    (study,) = select(studies, models=("gru host",))
    assert study.models == ("gru host",)
    with pytest.raises(ConfigError, match=r"--models: must be one of LambdaMART; .*'lambdamart'"):
        select(studies, models=("lambdamart",))
    with pytest.raises(ConfigError, match=r"--tracks: must be one of warm, stand-alone, got 'hot'"):
        select(studies, ("hot",))


def test_the_page_names_the_commits_of_rows_that_the_report_did_not_make(summary):
    assert "earlier commit" not in page({**MADE, **summary})
    tables = [{**entry, "commits": ["0" * 40]} for entry in summary["tables"]]
    tables[0] = {**tables[0], "commits": ["a" * 40]}
    text = page({**MADE, **summary, "tables": tables})
    assert f"| aaaaaaa | {tables[0]['model']} |" in text
    assert "| 0000000 |" not in text
