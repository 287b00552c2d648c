"""The click model against hand-computed cases, and a log simulated with it."""

import numpy as np
import pytest
import torch

from model.data.dataset import Dataset
from model.study.click_model import (
    SLATE,
    TOPICS,
    ClickModel,
    ClickModelReward,
    appeals_and_topics,
    prepare_simulation,
)

TOPIC = np.eye(TOPICS)[None, [0, 0, 1, 2]]  # two items of topic 0, one of 1, one of 2
APPEAL = np.array([[1.0, 0.5, 0.0, -1.0]])


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def test_clicks_of_a_slate_equal_a_hand_computed_case():
    click_model = ClickModel(fatigue=2.0, decay=0.5, attraction=1.0, abandon=0.4)
    examined, clicked = click_model.clicks(APPEAL, TOPIC, np.array([[0, 1, 2]]))
    first = sigmoid(1.0)
    second = sigmoid(0.5 - 2.0)  # fatigue: topic 0 again
    third = sigmoid(0.0 + 1.0)  # topic 1 right after topic 0
    assert clicked[0] == pytest.approx([first, second, third])
    stay = 1.0 - 0.4 * (1.0 - first)
    assert examined[0] == pytest.approx([1.0, stay, stay * (1.0 - 0.4 * (1.0 - second))])
    assert clicked[0] != pytest.approx([first, sigmoid(0.5 - 1.0), third])


def test_fatigue_fades_with_distance():
    click_model = ClickModel(fatigue=1.0, decay=0.5, attraction=0.0, abandon=0.0)
    _, apart = click_model.clicks(APPEAL, TOPIC, np.array([[0, 2, 1]]))
    assert apart[0, 2] == pytest.approx(sigmoid(0.5 - 0.5))


def test_without_effects_the_best_slate_is_the_sort_by_appeal():
    indifferent = ClickModel(fatigue=0.0, attraction=0.0)
    best, worth = indifferent.best_slates(APPEAL, TOPIC, 3)
    assert best.tolist() == [[0, 1, 2]]
    assert worth == pytest.approx(indifferent.expected_clicks(APPEAL, TOPIC, best))


def test_with_effects_the_best_slate_is_not_that_sort():
    best, worth = ClickModel().best_slates(APPEAL, TOPIC, 3)
    sort = np.argsort(-APPEAL, axis=1)[:, :3]
    assert best.tolist() != sort.tolist()
    assert worth[0] > ClickModel().expected_clicks(APPEAL, TOPIC, sort)[0]


def test_the_order_of_the_same_items_changes_the_expected_clicks():
    one, other = (
        ClickModel().expected_clicks(APPEAL, TOPIC, np.array([order]))
        for order in ([0, 2, 3], [3, 2, 0])
    )
    assert one[0] != pytest.approx(other[0])


def test_the_log_has_the_click_models_like_rates_and_the_same_bytes_per_seed(tmp_path):
    prepare_simulation(tmp_path / "one", 3000, seed=1)
    prepare_simulation(tmp_path / "two", 3000, seed=1)
    for name in ("impressions.parquet", "items.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    dataset = Dataset(tmp_path / "one")
    lists = dataset.lists(["train"])
    appeal, topic = appeals_and_topics(dataset, "train")
    slate = np.broadcast_to(np.arange(appeal.shape[1]), appeal.shape)
    examined, clicked = ClickModel().clicks(appeal, topic, slate)
    expected = (examined * clicked).mean(axis=0)
    assert lists.labels.mean(axis=0) == pytest.approx(expected, abs=0.03)
    assert lists.labels.mean(axis=0) != pytest.approx(clicked.mean(axis=0), abs=0.03)
    assert len(dataset.lists(["test"])) == 300
    assert appeal.shape[1] > SLATE


def test_the_reward_model_restores_appeal_and_topic_from_the_features(tmp_path):
    prepare_simulation(tmp_path, 400, seed=1)
    dataset, click_model = Dataset(tmp_path), ClickModel()
    lists = dataset.lists(["valid"])
    appeal, topic = appeals_and_topics(dataset, "valid")
    numbers, tokens, _, _ = (torch.from_numpy(array) for array in lists.read(slice(None)))
    slate = np.argsort(np.random.default_rng(0).random(appeal.shape), axis=1)[:, :SLATE]
    rewards = ClickModelReward(dataset.featuriser, click_model)
    clicks = rewards.utility(rewards.embed(numbers, tokens), torch.from_numpy(slate)).numpy()
    assert clicks == pytest.approx(click_model.expected_clicks(appeal, topic, slate), abs=1e-5)
    assert clicks != pytest.approx(
        click_model.expected_clicks(appeal, topic, slate[:, ::-1]), abs=1e-2
    )
