"""The arithmetic and the page of the quality report on made-up cells, and a miniature run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.network.config import ConfigError
from model.study import grid
from model.study import report as study_report
from model.study.grid import save
from model.study.merge import MergeError
from model.study.plots import plot_entropy
from model.study.report import page, report
from model.study.report_command import Report
from model.study.summary import SECTIONS, identity, read_cells, summarise
from model.study.variants import NEURAL, SEEDS, Study, plan_studies, select

ROOT = Path(__file__).parents[3]
MADE = {
    "made": {"command": "python -m model report", "commit": "0" * 40, "machine": "x86_64"},
    "setting": {"budget": 3},
}
MODELS = ("LambdaMART", *NEURAL)
SEARCH: dict[str, Any] = {"made": MADE["made"], "commits": ["0" * 40], "core_seconds": 7200.0,
                          "datasets": []}  # fmt: skip


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
            arrays["cpu_seconds"] = np.array(90.0)
            arrays["slate"] = np.full((50, 10), study.seed, np.int16)
            if model != "LambdaMART":
                arrays |= {
                    "reasoning_steps": np.full(50, 2.0),
                    "steps_by_position": np.full(10, 0.2),
                    "entropy_before": 3 - 0.1 * np.abs(np.arange(10) - 4),
                    "entropy_after": np.full(10, 2.5),
                    "threshold": np.array(2.5),
                    "validation": np.array(0.6),
                    "grpo_kept": np.array(float(study.seed == 1)),
                }
            save(study.directory(tmp_path) / f"{model}.npz", arrays)
    return studies, tmp_path


def table_of(summary, split):
    """Return the entries of the table of one split, by model."""
    return {entry["model"]: entry for entry in summary["tables"] if entry["split"] == split}


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
    none = differences["warm", "pointer EGLR", "pointer host", "ndcg@10"]
    assert [none[k] for k in ("mean_difference", "low", "high", "p")] == [0.0, 0.0, 0.0, 1.0]


def test_every_model_that_reasons_is_compared_with_its_plain_host(summary):
    compared = {(c["model"], c["against"]) for c in summary["comparisons"]}
    hosts = ("transformer", "gru", "pointer")
    assert compared >= {(f"{host} EGLR", f"{host} host") for host in hosts}
    assert ("one head", "transformer EGLR") in compared


def test_rows_hold_every_model_seed_and_metric_once(summary):
    keys = [(r["dataset"], r["split"], r["track"], r["model"], r["seed"], r["metric"])
            for r in summary["rows"]]  # fmt: skip
    assert len(keys) == len(set(keys)) == 2 * 2 * (4 + 7 * len(NEURAL))


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
    (studies[0].directory(tmp_path / "cache") / "one head.npz").unlink()
    summary = summarise(read_cells(studies, tmp_path / "cache"))
    warm, cold = table_of(summary, "warm"), table_of(summary, "cold")
    assert {row["seeds"] for row in warm.values()} == {1}
    assert {row["seeds"] for row in cold.values()} == {2}
    second, both = (
        np.mean([np.load(s.directory(cache) / "gru host.npz")["ndcg@10"].mean() for s in chosen])
        for chosen in (studies[1:2], studies[:2])
    )
    assert warm["gru host"]["ndcg@10"][0] == pytest.approx(second, abs=1e-6)
    assert warm["gru host"]["ndcg@10"][0] != pytest.approx(both, abs=1e-6)


@pytest.mark.parametrize("left", [("LambdaMART",), ("pointer host", "gru EGLR")])
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
    assert "| transformer host |" not in text


def test_models_without_a_seed_in_common_are_not_compared(made, tmp_path):
    studies, cache = made
    shutil.copytree(cache, tmp_path / "cache")
    (studies[0].directory(tmp_path / "cache") / "gru host.npz").unlink()
    (studies[1].directory(tmp_path / "cache") / "gru EGLR.npz").unlink()
    summary = summarise(read_cells(studies[:2], tmp_path / "cache"))
    assert ("gru EGLR", "gru host") not in {
        (c["model"], c["against"]) for c in summary["comparisons"]
    }
    assert table_of(summary, "warm") == {}
    page({**MADE, **summary})


def test_the_page_counts_the_seeds_that_kept_an_epoch_of_grpo(summary):
    lines = page({**MADE, **summary}).splitlines()
    row = next(line.split(" | ") for line in lines if line.startswith("| gru host |"))
    assert row[5:7] == ["0.6000", "1/2"]


def test_the_page_has_the_figures_of_the_table(summary):
    text = page({**MADE, **summary})
    entry = table_of(summary, "cold")["gru host"]
    assert f"| gru host | 2 | {entry['ndcg@5'][0]:.4f}" in text
    assert "+0.1000 [+0.1000, +0.1000]" in text
    assert all(f"| {name} | 2 |" in text for name in NEURAL)


def test_the_page_gives_the_position_of_highest_entropy_and_its_change(summary):
    text = page({**MADE, **summary})
    row = "| ranklens, warm, stand-alone | gru EGLR | 2.600, 3.000 (4), 2.500 | -0.250, -0.500 |"
    assert row in text


def test_an_empty_cache_raises_with_its_path(tmp_path):
    command = Report(
        config=ROOT / "model" / "configs" / "ranklens.yaml", data=tmp_path, movielens=tmp_path,
        cache=tmp_path / "cache", out=tmp_path, seeds=1, no_training=True,
    )  # fmt: skip
    with pytest.raises(FileNotFoundError, match="cache: no finished cell"):
        report(command)


@pytest.mark.long
def test_the_report_runs_in_miniature_and_again_from_its_cache(
    warm_ranklens, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    # The study of learning from search has its own miniature.
    monkeypatch.setattr(study_report, "measure", lambda _: SEARCH)
    monkeypatch.setattr(study_report, "plot_search", lambda *_: None)
    paths = {"data": warm_ranklens.parent, "cache": tmp_path / "cache", "out": tmp_path / "out",
             "movielens": tmp_path / "absent", "bundle": tmp_path / "absent"}  # fmt: skip
    options: dict[str, Any] = {**paths, "seeds": 1, "smoke": True}
    again = {"check": True, "only_seeds": (0,), "models": ("gru EGLR",),
             "cache": tmp_path / "again"}  # fmt: skip
    report(Report(**options))
    first = (tmp_path / "out" / "quality.json").read_bytes()
    summary = json.loads(first)
    assert {r["model"] for r in summary["rows"]} >= {
        "random order",
        "LambdaMART",
        "transformer host",
        "gru EGLR",
        "pointer EGLR",
        "one head",
    }
    random = [
        r["value"]
        for r in summary["rows"]
        if r["model"] == "random order" and r["metric"] == "ndcg@10"
    ]
    # NDCG@10 is low, because slates of 4 are compared with the ideal of the list.
    assert all(0.1 < value < 0.3 for value in random)
    assert (tmp_path / "out" / "entropy.png").stat().st_size > 1000
    report(Report(**options))
    assert (tmp_path / "out" / "quality.json").read_bytes() == first

    report(Report(**options | again))
    printed = re.findall(r"equal to .*quality\.json: (.*)", capsys.readouterr().out)
    assert printed == ["ranklens, warm, stand-alone, gru EGLR, 0"]
    assert (tmp_path / "out" / "quality.json").read_bytes() == first
    summary["cells"][0]["digest"] = "0" * 64
    (tmp_path / "out" / "quality.json").write_text(json.dumps(summary))
    with pytest.raises(MergeError, match="random order, 0: slates or metrics of a list differ"):
        report(Report(**options | {"check": True, "no_training": True}))


def test_a_check_without_a_report_raises_before_it_trains(tmp_path):
    config = ROOT / "model" / "configs" / "ranklens.yaml"
    command = Report(data=tmp_path / "absent", config=config, out=tmp_path, check=True)
    with pytest.raises(MergeError, match=r"quality\.json: no report to compare with"):
        report(command)


def test_only_the_named_cells_are_trained_and_unknown_names_are_refused(tmp_path):
    studies = [
        Study("ranklens", "warm", "stand-alone", seed, tmp_path, ("LambdaMART", "gru host"))
        for seed in range(2)
    ]
    assert select(studies) == select(studies, ("warm, stand-alone",), (), (0, 1)) == studies
    (study,) = select(studies, models=("gru host",), seeds=(1,))
    assert (study.models, study.seed) == (("gru host",), 1)
    with pytest.raises(ConfigError, match=r"--models: must be one of LambdaMART; .*'lambdamart'"):
        select(studies, models=("lambdamart",))
    with pytest.raises(ConfigError, match=r"--tracks: must be one of warm, stand-alone, got 'hot'"):
        select(studies, ("hot",))
    with pytest.raises(ConfigError, match=r"--only-seeds: must be one of 0; 1, got 2"):
        select(studies, seeds=(0, 2))


def test_the_plan_has_every_split_its_seeds_and_skips_absent_movielens(tmp_path):
    absent, present = (plan_studies(tmp_path, tmp_path / name, 9) for name in ("absent", ""))
    seeds = {split: [s.seed for s in present if s.split == split] for split in SEEDS}
    assert seeds == {split: list(range(count)) for split, count in SEEDS.items()}
    assert [s for s in present if s.dataset == "ranklens"] == absent
    assert {s.seed for s in plan_studies(tmp_path, tmp_path, 1)} == {0}
    directories = [study.directory(tmp_path) for study in present]
    assert len(set(directories)) == len(directories)  # one study fills a directory


def test_the_page_says_the_hours_of_its_cells(summary):
    hours = 2 * 2 * len(MODELS) * 90 / 3600
    assert f"took {hours:.1f}, 0.0 and {hours:.1f} hours of one core" in page({**MADE, **summary})
    text = page({**MADE, **summary, "search": SEARCH})
    assert f"took {hours:.1f}, 2.0 and {hours + 2:.1f} hours of one core" in text
    assert "\n## Learning from search\n" in text


def test_the_page_has_the_served_bundle_without_a_step_as_served_and_with_every_step(summary):
    path = ROOT / "docs" / "reports" / "budget.json"
    payload = json.loads(path.read_text(encoding="utf-8"))
    assert "## The served bundle" not in page({**MADE, **summary})
    text = page({**MADE, **summary, "served": payload})
    rows = {(row["gate"], row["budget"]): row for row in payload["rows"]}
    for name, key in {
        "no step": ("of the bundle", 0),
        "gate of the bundle": ("of the bundle", 3),
        "every step": ("always open", 3),
    }.items():
        steps, ndcg = (rows[key][figure][0] for figure in ("steps", "ndcg@10"))
        assert f"| {name} | {steps:.2f} | {ndcg:.4f} [" in text


def test_the_digest_of_a_cell_follows_its_slates_and_metrics_not_its_time(made):
    studies, cache = made
    cell = grid.load(studies[0].directory(cache) / "gru EGLR.npz")
    digest = identity(cell)["digest"]
    assert identity({**cell, "cpu_seconds": np.array(1.0)})["digest"] == digest
    assert identity({**cell, "slate": cell["slate"] + 1})["digest"] != digest
    metrics = {**cell, "map@10": np.nextafter(cell["map@10"], 1)}
    assert identity(metrics)["digest"] != digest


def test_the_page_names_the_commits_of_rows_that_the_report_did_not_make(summary):
    assert "earlier commit" not in page({**MADE, **summary})
    tables = [{**entry, "commits": ["0" * 40]} for entry in summary["tables"]]
    tables[0] = {**tables[0], "commits": ["a" * 40]}
    text = page({**MADE, **summary, "tables": tables})
    assert f"| aaaaaaa | {tables[0]['model']} |" in text
    assert "| 0000000 |" not in text
