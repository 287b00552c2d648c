"""Quality against the reasoning budget: the rows of the report, and its miniature."""

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest

from model.__main__ import main
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.study.budget import GATES, OPEN, QUALITY, measure, rank, summarise, verdict, with_utility
from service.engine.rows import SlateSampling
from service.engine.session import Session

LISTS = 12


@pytest.fixture(scope="module")
def served(smoke_bundle):
    return Session.load(smoke_bundle[0])


@pytest.fixture(scope="module")
def lists(warm_ranklens):
    return list(islice(Dataset(warm_ranklens).impressions(["test"]), LISTS))


def test_the_utility_belongs_to_the_greedy_slate(served, lists):
    rows = [served.row(i.request, entropy_threshold=OPEN) for i in lists]
    slates = served.run([with_utility(row) for row in rows])
    for greedy, slate in zip(served.run(rows), slates, strict=True):
        assert slate.indices.tolist() == greedy.indices.tolist()
        assert slate.steps.tolist() == greedy.steps.tolist()
        assert 0.0 < slate.utility < 1.0


def test_noise_would_give_another_slate_its_utility(served, lists):
    rows = [served.row(i.request) for i in lists]
    noisy = [dataclasses.replace(row, sampling=SlateSampling(1, seed=3)) for row in rows]
    pairs = zip(served.run(rows), served.run(noisy), strict=True)
    assert any(a.indices.tolist() != b.indices.tolist() for a, b in pairs)


def test_an_open_gate_takes_the_whole_budget_at_every_position(served, lists):
    for budget in range(served.manifest.budget + 1):
        steps = rank(served, lists, budget, OPEN)["steps"]
        assert steps.tolist() == [budget * served.manifest.slate_length] * LISTS


def test_changes_are_paired_differences_from_budget_0():
    draw = np.random.default_rng(0)
    of_list = draw.normal(scale=10.0, size=500)
    figures = ("utility", "ndcg@10", "steps", "milliseconds")
    cells = {
        ("of the bundle", budget): {
            name: of_list + 0.1 * budget + draw.normal(scale=0.01, size=500) for name in figures
        }
        for budget in (0, 1)
    }
    rows = [summarise("of the bundle", budget, cells) for budget in (0, 1)]
    assert all(rows[0]["change"][name] == [0.0, 0.0, 0.0] for name in QUALITY)
    for name in QUALITY:
        mean, low, high = rows[1]["change"][name]
        assert mean == pytest.approx(0.1, abs=0.002)
        assert high - low < 0.01  # lists differ by a thousand times as much
    assert "**utility** differs from budget 0 at 1 (+0.1" in verdict(rows)


def test_a_change_that_may_be_0_is_no_difference():
    nothing = {"utility": [0.0, 0.0, 0.0], "ndcg@10": [0.0, 0.0, 0.0]}
    changes = {"utility": [0.001, -0.001, 0.003], "ndcg@10": [-0.01, -0.02, -0.001]}
    rows = [
        {
            "gate": "of the bundle",
            "budget": 0,
            "change": nothing,
            "milliseconds": [0.5, None, None],
        },
        {
            "gate": "of the bundle",
            "budget": 3,
            "change": changes,
            "milliseconds": [2.0, None, None],
        },
    ]
    assert verdict(rows).splitlines() == [
        "- Gate of the bundle: **utility** differs at no budget from 0.",
        "- Gate of the bundle: **NDCG@10** differs from budget 0 at 3 (-0.01000).",
        "- Gate of the bundle: budget 0 takes 0.25 of the graph's **time** at the full budget.",
    ]


def test_the_report_has_a_row_for_each_gate_and_budget(
    smoke_bundle, served, warm_ranklens, tmp_path
):
    options = ["--smoke", "--out", str(tmp_path)]
    paths = ["--bundle", str(smoke_bundle[0]), "--data", str(warm_ranklens)]
    assert main(["budget", *options, *paths]) == 0
    payload = json.loads((tmp_path / "budget.json").read_text())
    expected = [(gate, b) for gate in GATES for b in range(served.manifest.budget + 1)]
    assert [(row["gate"], row["budget"]) for row in payload["rows"]] == expected
    assert all(row["milliseconds"][0] > 0.0 for row in payload["rows"])
    text = (tmp_path / "budget.md").read_text()
    assert sum(line.startswith(("| of the", "| always")) for line in text.splitlines()) == len(
        expected
    )
    (tmp_path / "budget.md").unlink()
    assert main(["budget", *options, "--page-only"]) == 0
    assert (tmp_path / "budget.md").read_text() == text


def test_a_data_set_without_lists_to_rank_is_refused(served, warm_ranklens):
    with pytest.raises(DataError, match="must have a test list with"):
        measure(served, Dataset(warm_ranklens), limit=0)
