"""Fronts of relevance against diversity: points, comparisons, and the report in miniature."""

import json
import math

import numpy as np
import pytest
import torch

from model.__main__ import main
from model.data.dataset import Dataset
from model.data.intervals import format_interval, interval
from model.learning import checkpoint
from model.learning.policy import Batch, Policy
from model.network.reasoning import decode, follow
from model.study.diversity import page, verdict
from model.study.diversity_cells import LOOP, POST_PROCESSING, fronts
from model.study.diversity_front import (
    Point,
    advise,
    choose,
    difference_at_equal_ndcg,
    highest_point,
)
from model.study.diversity_loop import loop_slates
from model.study.diversity_metrics import METRICS, POSITIONS, candidate_values
from model.study.diversity_scores import platt
from model.study.diversity_served import PLAIN, WEIGHTS, measure_served, served_slates
from service.engine.intent import DiversityTerm, build_intent

LISTS = 400


def made_up(ndcg, alpha_ndcg, seed=0, noise=0.1):
    """Return metrics [1, W, M, R] with these means; the noise is the same at every weight."""
    draw = np.random.default_rng(seed).normal(scale=noise, size=(2, LISTS))
    draw -= draw.mean(axis=1, keepdims=True)
    values = np.zeros((1, len(ndcg), len(METRICS), LISTS))
    values[0, :, 0] = np.array(ndcg)[:, None] + draw[0]
    values[0, :, 1] = np.array(alpha_ndcg)[:, None] + draw[1]
    return values


def test_the_highest_point_of_a_front_lies_between_two_weights():
    point = highest_point([0.6, 0.5, 0.4], [0.5, 0.6, 0.62], 0.45)
    assert point is not None
    assert point.left == 1
    assert point.share == pytest.approx(0.5)
    assert point.height == pytest.approx(0.61)


def test_a_front_that_falls_keeps_its_best_point_and_one_out_of_reach_has_none():
    assert highest_point([0.6, 0.5], [0.5, 0.4], 0.55) == Point(0, 0.0, 0.5)
    assert highest_point([0.6, 0.5], [0.5, 0.6], 0.7) is None


def test_the_difference_at_equal_ndcg_has_the_mean_of_the_heights():
    front = made_up([0.6, 0.5], [0.5, 0.6], seed=1)
    one = made_up([0.56], [0.57], seed=2)[:, 0]
    difference = difference_at_equal_ndcg(one, front)
    assert difference is not None
    assert difference.mean() == pytest.approx(0.57 - 0.54, abs=1e-9)
    assert difference_at_equal_ndcg(made_up([0.61], [0.5])[:, 0], front) is None


def test_the_interval_at_equal_ndcg_covers_the_uncertainty_of_the_matching():
    """Recompute the point of the front in every resample, and compare the spread."""
    front = made_up([0.6, 0.5], [0.5, 0.6], seed=1)
    one = made_up([0.56], [0.57], seed=2)[:, 0]
    difference = difference_at_equal_ndcg(one, front)
    assert difference is not None
    draw, resampled = np.random.default_rng(0), []
    for _ in range(1000):
        rows = draw.integers(0, LISTS, LISTS)
        again = difference_at_equal_ndcg(one[..., rows], front[..., rows])
        resampled.append(np.nan if again is None else again.mean())
    _, low, high = interval(difference)
    assert low is not None
    assert high is not None
    exact = np.nanquantile(resampled, [0.025, 0.975])
    np.testing.assert_allclose([low, high], exact, atol=0.003)
    unmatched = one[:, 1] - 0.6 * front[:, 0, 1] - 0.4 * front[:, 1, 1]
    _, narrow, wide = interval(unmatched)
    assert narrow is not None
    assert wide is not None
    assert wide - narrow < high - low - 0.003


def test_validation_chooses_parameters_and_the_advised_weight():
    loop = [front for front in fronts() if front.method is LOOP]
    ndcg = np.linspace(0.6, 0.55, len(LOOP.weights))
    values = {
        front: made_up(ndcg, np.linspace(0.5, 0.6 + 0.001 * number, len(LOOP.weights)))
        for number, front in enumerate(loop)
    }
    assert choose(values) == [loop[-1]]
    weight = advise(values, loop[-1])
    assert ndcg[LOOP.weights.index(weight)] >= 0.97 * 0.6
    assert ndcg[LOOP.weights.index(weight) + 1] < 0.97 * 0.6


def test_fronts_have_a_method_and_parameters_of_their_own():
    every = list(fronts())
    assert len({front.title for front in every}) == len(every)
    assert {front.method.name for front in every} == {
        LOOP.name, *(method.name for method in POST_PROCESSING)
    }  # fmt: skip


def test_platt_scaling_recovers_a_logistic_law():
    draw = np.random.default_rng(0)
    scores = draw.normal(size=20_000)
    gains = draw.random(len(scores)) < 1 / (1 + np.exp(-(1.5 * scores - 0.5)))
    assert platt(scores, gains) == pytest.approx((1.5, -0.5), abs=0.1)
    assert platt(scores, ~gains) != pytest.approx((1.5, -0.5), abs=0.1)


@pytest.fixture(scope="module")
def policy(smoke_run):
    """A policy that never reasons."""
    trained = checkpoint.load(smoke_run)
    return Policy(trained.config, trained.generator, threshold=math.inf)


@pytest.mark.parametrize("law", ["sum", "mean"])
def test_the_loop_of_the_study_follows_the_law_of_the_service(policy, warm_ranklens, law):
    dataset = Dataset(warm_ranklens)
    lists = dataset.lists(["test"]).take(slice(0, 6))
    values = candidate_values(dataset, lists, "test", "genres")
    slates = loop_slates(policy, lists, values, 2.0, law, 0.4)
    assert (slates != loop_slates(policy, lists, values, 0.0, law, 0.4)).any()
    b = Batch(lists, slice(0, 6))
    encoded = policy.generator.encode(b.numbers, b.tokens, b.mask)
    gate = policy.configured_gate(6, 0, b.mask.device)
    steps = follow(torch.from_numpy(slates))
    with torch.no_grad():
        decoded = decode(policy.generator, encoded, slates.shape[1], steps, 1.0, gate)
    for row, (slate, logits) in enumerate(zip(slates, decoded.logits.numpy(), strict=True)):
        listed = [np.flatnonzero(one).tolist() for one in values[row]]
        intent = build_intent([DiversityTerm("genres", 2.0, 0.4, law)], [listed])
        adjusted = logits + intent.adjustment(slate.tolist())
        assert adjusted.argmax(axis=1).tolist() == slate.tolist()


def test_the_page_of_diversity_has_the_figures_of_its_json(tmp_path, warm_ranklens):
    arguments = ["diversity", "--smoke", "--data", str(warm_ranklens), "--out", str(tmp_path)]
    assert main([*arguments, "--cache", str(tmp_path / "cache")]) == 0
    payload = json.loads((tmp_path / "diversity.json").read_text(encoding="utf-8"))
    text = (tmp_path / "diversity.md").read_text(encoding="utf-8")
    assert page(payload) == text
    assert (tmp_path / "diversity.png").stat().st_size > 10_000
    advice = payload["advice"][0]
    assert format_interval(advice["change"]["alpha-ndcg@10"], signed=True) in text
    assert {row["method"] for row in payload["rows"]} >= {"plain sort", "MMR", "PM-2"}
    assert {row["metric"] for row in payload["rows"]} == set(METRICS)
    keys = {"dataset", "method", "weight", "metric", "mean", "low", "high"}
    assert all(keys <= row.keys() for row in payload["rows"])


def test_the_verdict_names_the_methods_that_the_loop_does_not_beat():
    def entry(method, difference):
        differences = dict.fromkeys(METRICS[1:], difference)
        return {"dataset": "d", "method": method, "scores": "s", **differences}

    entries = [entry("a", [0.1, 0.05, 0.2]), entry("b", [-0.1, -0.2, -0.05])]
    entries += [entry("c", [0.1, -0.1, 0.2]), entry("d", None)]
    assert verdict(entries).splitlines()[:3] == [
        "- **alpha-ndcg@10**: the loop is above 1 of 3.",
        "  It is below b over s (d).",
        "  It is not told apart from c over s (d).",
    ]


def test_slates_over_http_come_back_in_the_logged_order(url, warm_ranklens):
    dataset = Dataset(warm_ranklens)
    slates = served_slates(dataset, url, {"slate_size": 3}, limit=5)
    assert slates.shape == (5, POSITIONS)
    assert (slates[:, 3:] == -1).all()
    assert ((slates[:, :3] >= 0) & (slates[:, :3] < 24)).all()


def test_the_front_of_a_served_bundle_begins_at_its_plain_slates(
    smoke_bundle, warm_ranklens, tmp_path
):
    advice = {"dataset": "RankLens, genres", "weight": 0.5, "decay": 0.2, "law": "sum"}
    served = measure_served(smoke_bundle[0], warm_ranklens, advice, tmp_path, limit=40)
    assert 30 <= served["lists"] <= 40
    front = {point.pop("weight"): point for point in served["front"]}
    assert [*front] == [0.0, *WEIGHTS]
    assert front[0.0] == served["requests"][PLAIN]
    assert front[0.5] == served["requests"]["as advised"]
    # The bonus does what it is for: more values in the slate, the more the larger its weight.
    coverage = [front[weight]["coverage"][0] for weight in (0.0, 0.5, 1.0)]
    assert coverage == sorted(coverage)
    assert coverage[0] < coverage[-1]
