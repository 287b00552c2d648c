"""The committed pages of the reports against their committed JSON."""

import json
import shutil
from pathlib import Path

import pytest

from model.data.intervals import format_interval
from model.study import (
    diversity,
    evaluator_report,
    report,
    scale,
    scale_evaluate,
    world_report,
    worth,
)
from model.study.pages import short_commit
from model.study.plots import colour
from model.study.variants import NEURAL

REPORTS = Path(__file__).parents[3] / "docs" / "reports"


def world_page(payload):
    return world_report.page(
        payload, "world_law" if payload["setting"]["reward"] == "law" else "world"
    )


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("quality", report.page),
        ("evaluator", evaluator_report.page),
        ("diversity", diversity.page),
        ("scale", scale.page),
        ("worth", worth.page),
        ("world", world_page),
        ("world_law", world_page),
        ("six_steps/world_law", world_page),
    ],
)
def test_a_committed_page_is_the_rendering_of_its_json(name, page):
    payload = json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))
    assert page(payload) == (REPORTS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "write", "plots"),
    [
        ("quality", report.write_page, ["entropy.png", "search_entropy.png", "search_regret.png"]),
        ("evaluator", evaluator_report.write_page, ["evaluator.png"]),
        ("diversity", diversity.write_page, ["diversity.png"]),
        ("scale", scale.write_page, []),
        ("scale_evaluate", scale_evaluate.write_page, []),
        ("worth", worth.write_page, []),
        ("world", lambda out: world_report.write_page(out, "world"), ["world.png"]),
    ],
)
def test_a_json_alone_is_enough_to_write_page_and_plots(tmp_path, name, write, plots):
    shutil.copy(REPORTS / f"{name}.json", tmp_path)
    write(tmp_path)
    assert (tmp_path / f"{name}.md").read_bytes() == (REPORTS / f"{name}.md").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == plots


def test_every_trained_model_of_the_grid_has_a_colour_of_its_own():
    assert len({colour(name) for name in NEURAL}) == len(NEURAL)


def test_an_interval_has_signs_only_if_signed():
    assert format_interval((0.12345, -0.1, 0.2)) == "0.1235 [-0.1000, 0.2000]"
    assert format_interval((0.1, -0.1, 0.2), signed=True) == "+0.1000 [-0.1000, +0.2000]"


def test_a_short_commit_keeps_the_suffix_dirty():
    assert short_commit("0123456789abcdef-dirty") == "0123456-dirty"
    assert short_commit("unknown") == "unknown"


def test_the_committed_worth_is_inside_its_interval_for_every_case_seed_and_caller():
    rows = json.loads((REPORTS / "worth.json").read_text(encoding="utf-8"))["rows"]
    keys = {(row["case"], row["seed"], row["caller"]) for row in rows}
    assert keys == {
        (case, seed, caller)
        for case in worth.CASES
        for seed in range(3)
        for caller in ("ids only", "fresh")
    }
    assert all(row["low"] <= row["measured"] <= row["high"] for row in rows)


def test_the_committed_diversity_gains_over_http_and_is_above_mmr_at_equal_ndcg():
    payload = json.loads((REPORTS / "diversity.json").read_text(encoding="utf-8"))
    for request, figures in payload["served"]["requests"].items():
        alpha_ndcg, ndcg = figures["alpha-ndcg@10"][0], figures["ndcg@10"][0]
        assert ndcg >= 0.61
        assert (alpha_ndcg >= 0.636) == (request != "without diversity")
    over_mmr = [e["alpha-ndcg@10"] for e in payload["comparisons"] if e["method"] == "MMR"]
    reached = [difference for difference in over_mmr if difference is not None]
    assert len(reached) == 5
    assert all(low > 0 for _, low, _ in reached)
