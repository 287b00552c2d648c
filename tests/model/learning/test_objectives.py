"""The objective of slates equals values computed by hand, and its gains add up to it."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from model.learning import checkpoint
from model.learning.policy import Batch
from model.learning.train import train
from model.network.config import Config, ConfigError
from tests.support.objectives import (
    config_of,
    lists_of,
    objective_of,
    random_evaluator,
    random_lists,
    value_of,
)
from tests.support.runs import SMOKE

TERMS = (
    {"kind": "alpha_dcg", "by": "genres", "weight": 1.0, "alpha": 0.4},
    {"kind": "coverage", "by": "genres", "weight": 0.7},
    {"kind": "similarity", "by": "style", "weight": -0.5},
    {"kind": "similarity", "by": "genres", "weight": -0.2, "kernel": "jaccard"},
    {"kind": "share", "by": "seller", "weight": 0.3, "value": "small", "target": 0.5},
)
THREE = [
    (0.5, "x", "big", (1.0, 0.0)),
    (0.4, "xy", "small", (1.0, 1.0)),
    (0.3, "z", "small", (0.0, 2.0)),
]


def of_three(term, slate=(0, 1, 2)):
    return float(value_of(config_of(term), lists_of([THREE]), [slate])[0])


def test_expected_alpha_dcg_discounts_values_that_a_like_before_may_have_covered():
    # Gains .5; .4 (1 - .5 * .5) for x and .4 for y; .3.
    term = {"kind": "alpha_dcg", "by": "genres", "weight": 1.0}
    log3 = math.log2(3)
    total = 1 + 1 / log3 + 0.5
    expected = (0.5 + (0.4 * 0.75 + 0.4) / log3 + 0.3 / 2) / total
    assert of_three(term) == pytest.approx(expected, abs=1e-6)
    other = (0.5 + 0.3 / log3 + (0.4 * 0.75 + 0.4) / 2) / total
    assert of_three(term, (0, 2, 1)) == pytest.approx(other, abs=1e-6)
    assert abs(expected - other) > 1e-2


def test_coverage_is_the_expected_share_of_the_lists_values():
    # x is covered with 1 - .5 * .6, y with .4, z with .3.
    term = {"kind": "coverage", "by": "genres", "weight": 2.0}
    assert of_three(term) == pytest.approx(2 * (0.7 + 0.4 + 0.3) / 3, abs=1e-6)
    assert of_three(term, (0, 1, -1)) == pytest.approx(2 * (0.7 + 0.4) / 3, abs=1e-6)


def test_similarity_is_the_mean_over_pairs_by_either_kernel():
    style = {"kind": "similarity", "by": "style", "weight": -1.0}
    assert of_three(style) == pytest.approx(-(2 * math.sqrt(0.5) + 0) / 3, abs=1e-6)
    genres = {"kind": "similarity", "by": "genres", "weight": 1.0}
    assert of_three(genres) == pytest.approx(math.sqrt(0.5) / 3, abs=1e-6)
    assert of_three({**genres, "kernel": "jaccard"}) == pytest.approx(0.5 / 3, abs=1e-6)


def test_share_gains_nothing_above_its_target():
    term = {"kind": "share", "by": "seller", "weight": 1.0, "value": "small"}
    assert of_three(term) == pytest.approx(2 / 3, abs=1e-6)
    assert of_three({**term, "target": 0.5}) == pytest.approx(0.5, abs=1e-6)
    assert of_three({**term, "value": "big"}) == pytest.approx(1 / 3, abs=1e-6)


def test_the_utility_of_the_reward_model_is_one_more_term():
    config = config_of(*TERMS[:1], utility=3.0)
    log3 = math.log2(3)
    utility = (0.5 + 0.4 / log3 + 0.3 / 2) / (1 + 1 / log3 + 0.5)
    value = float(value_of(config, lists_of([THREE]), [[0, 1, 2]])[0])
    assert value == pytest.approx(of_three(TERMS[0]) + 3 * utility, abs=1e-6)


def random_slates(lists, length, group, seed=0):
    """Draw distinct candidates of each list, int64 [B, G, K] with -1 past its end."""
    draw = np.random.default_rng(seed)
    slates = np.full((len(lists), group, length), -1)
    for row, size in enumerate(lists.mask.sum(axis=1)):
        for number in range(group):
            order = draw.permutation(size)[:length]
            slates[row, number, : len(order)] = order
    return torch.from_numpy(slates)


@pytest.mark.parametrize("utility", [0.0, 1.5])
def test_the_gains_of_a_slates_items_add_up_to_its_value_also_in_short_lists(utility):
    config = config_of(*TERMS, utility=utility, length=4)
    lists = random_lists([7, 5, 3, 1])
    of_lists = objective_of(config, random_evaluator(config)).of(Batch(lists, slice(None)))
    slates = random_slates(lists, 4, group=3)
    prefix, total = of_lists.start(3), torch.zeros(4, 3)
    for position in range(4):
        item = slates[:, :, position]
        gain = of_lists.gains(prefix, position).gather(2, item.clamp(min=0).unsqueeze(2))
        total += gain.squeeze(2) * (item >= 0)
        prefix = of_lists.extend(prefix, item, position)
    assert prefix.slate.equal(slates)
    torch.testing.assert_close(total, of_lists.value(slates), rtol=0, atol=1e-5)
    reversed_slates = slates[:2].flip(2)
    changed = of_lists.value(torch.cat([reversed_slates, slates[2:]])) - total
    assert float(changed[:2].abs().min()) > 1e-4


def test_gains_along_a_slate_are_those_of_its_prefixes():
    config = config_of(*TERMS, utility=1.0)
    lists = random_lists([6, 6])
    of_lists = objective_of(config, random_evaluator(config)).of(Batch(lists, slice(None)))
    slates = random_slates(lists, 3, group=1)
    along = of_lists.gains_along(slates[:, 0])
    prefix = of_lists.start()
    for position in range(3):
        torch.testing.assert_close(along[:, position], of_lists.gains(prefix, position)[:, 0])
        prefix = of_lists.extend(prefix, slates[:, :, position], position)


def test_labels_and_padding_do_not_change_the_objective():
    config = config_of(*TERMS, utility=1.0)
    evaluator = random_evaluator(config)
    slates = [[0, 2, 1], [1, 0, 2]]
    alone = [value_of(config, lists_of([THREE]), [slate], evaluator) for slate in slates]
    longer = [THREE, THREE[:3] + THREE]  # the first list is padded to the length of the second
    padded = value_of(config, lists_of(longer, labels=1.0), [slates[0], slates[0]], evaluator)
    torch.testing.assert_close(padded[:1], alone[0], rtol=0, atol=1e-6)
    assert abs(float(alone[0] - alone[1])) > 1e-4


def test_values_outside_of_the_vocabulary_count_as_none():
    unknown = [(0.5, "x", "big", (1.0, 0.0)), (0.4, "?", "?", (1.0, 1.0))]
    term = {"kind": "alpha_dcg", "by": "genres", "weight": 1.0}
    value = float(value_of(config_of(term, length=2), lists_of([unknown]), [[0, 1]])[0])
    assert value == pytest.approx(0.5 / (1 + 1 / math.log2(3)), abs=1e-6)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"by": "mood"}, r"terms\.0\.by: must be one of genres, seller, got 'mood'"),
        ({"by": "item_id"}, r"terms\.0\.by: must be one of genres, seller, got 'item_id'"),
        ({"by": "hour"}, r"terms\.0\.by: must be one of genres, seller, got 'hour'"),
        ({"by": "style"}, r"terms\.0\.by: must be one of genres, seller, got 'style'"),
        (
            {"by": "style", "kind": "similarity", "kernel": "jaccard"},
            r"terms\.0\.kernel: must be cosine for the vector 'style', got 'jaccard'",
        ),
        (
            {"by": "seller", "kind": "share", "value": "huge"},
            r"terms\.0\.value: must be a value of 'seller', got 'huge'",
        ),
    ],
)
def test_a_term_that_the_schema_does_not_fit_is_refused_by_field(term, message):
    with pytest.raises(ConfigError, match=rf"^objectives\.{message}$"):
        objective_of(config_of({"kind": "coverage", "weight": 1.0, **term}))


def test_grpo_raises_the_objective_that_rewards_it_and_validation_selects_by_it(
    warm_ranklens, tmp_path
):
    share = {"kind": "share", "by": "genres", "value": "documentary", "weight": 1.0}
    objectives = {"utility": 0.0, "terms": [share]}
    payload = SMOKE.to_json() | {"objectives": objectives, "selection": "objective"}
    config = Config.from_json(json.loads(json.dumps(payload)))
    grpo = dataclasses.replace(
        config.grpo, epochs=4, samples_per_epoch=8, learning_rate=1e-2, kl=0.0, supervised=0.0
    )
    state = train(dataclasses.replace(config, grpo=grpo), warm_ranklens, tmp_path / "run")
    before, after = (state.validation[name]["objective"] for name in ("warm_start", "final"))
    assert after > before + 0.03
    assert checkpoint.load(tmp_path / "run").config.objectives == config.objectives
