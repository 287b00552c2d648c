"""Gains of graded labels in losses, in lists with an order, and in a whole run."""

import dataclasses
import math
import shutil
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml

from model.data.lists import Arrays, Lists
from model.learning.policy import Batch, evaluator_loss, pointer_loss
from model.learning.train import train
from model.network.evaluator import Evaluator
from service.engine.features.schema import LabelScale
from tests.support.runs import SMOKE, tensors_of

EXPONENTIAL = LabelScale((0, 4), "exponential", 1)


def graded_lists(grades: Any, scale: LabelScale = EXPONENTIAL) -> Lists:
    """Return lists of one number per candidate with these grades; -1 is padding."""
    grades = np.array(grades, np.float32)
    mask = grades >= 0
    numbers = np.zeros((*grades.shape, 1), np.float32)
    tokens = np.zeros((*grades.shape, 0), np.int64)
    labels = np.where(mask, grades / 4, 0).astype(np.float32)
    return Lists.of(Arrays(numbers, tokens, mask, labels)._asdict(), scale)


def test_lists_have_an_order_where_gains_differ_even_without_a_positive_by_half():
    lists = graded_lists([[0, 1, -1], [2, 2, -1], [3, 4, 4], [0, 0, 0]])
    assert lists.rankable(chunk=3).rows.tolist() == [0, 2]
    binary = dataclasses.replace(lists, scale=LabelScale((0, 4)))
    assert binary.rankable().rows.tolist() == []


def test_the_pointer_loss_targets_the_gains_that_are_left():
    logits = torch.log(torch.tensor([[[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]]))
    gains = torch.tensor([[0.2, 0.0, 0.6]])
    loss = pointer_loss(logits, torch.tensor([[2, 0]]), gains).item()
    first = -(0.25 * math.log(1 / 8) + 0.75 * math.log(5 / 8))
    second = -math.log(1 / 8)  # the third is in the slate
    discount = 1 / math.log2(3)
    assert loss == pytest.approx((first + discount * second) / (1 + discount), abs=1e-6)


def test_the_evaluator_learns_gains_and_without_a_declared_gain_the_label():
    class Half:
        def embed(self, numbers, _tokens):
            return numbers

        def __call__(self, embedded, _mask):
            return embedded[:, :, 0]  # logits of 0: a probability of 1/2 whatever the target

    batch = Batch(graded_lists([[0, 2, 4]]), slice(None))
    assert batch.targets.tolist() == [pytest.approx([0, 0.2, 1])]
    assert evaluator_loss(cast(Evaluator, Half()), batch, 2).item() == pytest.approx(math.log(2))
    undeclared = Batch(graded_lists([[0, 2, 4]], LabelScale((0, 4))), slice(None))
    assert undeclared.targets.tolist() == [[0, 0.5, 1]]
    assert undeclared.gains.tolist() == [[0, 0, 1]]


def test_a_graded_gain_over_labels_of_0_and_1_trains_the_same_weights(
    warm_ranklens, smoke_run, tmp_path
):
    data = shutil.copytree(warm_ranklens, tmp_path / "graded")
    schema = yaml.safe_load((data / "schema.yaml").read_text(encoding="utf-8"))
    schema["label"] = {"range": [0, 1], "gain": "exponential", "positive": 1}
    (data / "schema.yaml").write_text(yaml.safe_dump(schema), encoding="utf-8")
    state = train(SMOKE, data, tmp_path / "run")
    expected, tensors = tensors_of(smoke_run), tensors_of(tmp_path / "run")
    assert expected.keys() == tensors.keys()
    assert [name for name in expected if not expected[name].equal(tensors[name])] == []
    final = state.validation["final"]
    assert final["graded ndcg@10"] == pytest.approx(final["ndcg@10"])
