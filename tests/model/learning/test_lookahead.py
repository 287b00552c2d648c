"""Targets that look ahead: the best continuation of every choice, by trying all slates."""

import itertools

import numpy as np
import pytest
import torch

from model.learning import teacher
from model.learning.lookahead import losses_along, orders_of, slate_values
from model.learning.policy import Batch
from model.learning.teacher import TeacherFiles, teach, try_all_slates
from model.network.objectives_config import SearchConfig
from tests.support.objectives import config_of, objective_of, random_evaluator, random_lists

SIZES = [5, 5, 4, 2, 1]
ALPHA_DCG = {"kind": "alpha_dcg", "by": "genres", "weight": 1.0, "alpha": 0.9}


def tiny(length=3):
    config = config_of(ALPHA_DCG, utility=1.0, length=length)
    lists = random_lists(SIZES)
    objective = objective_of(config, random_evaluator(config))
    return objective, objective.of(Batch(lists, slice(None))), lists


def best_value(of_lists, row, size, prefix):
    """Return the best value of a slate of one list that begins with a prefix, slate by slate."""
    length = min(of_lists.length, size)
    best = -np.inf
    for order in itertools.permutations(range(size), length):
        if list(order[: len(prefix)]) == prefix:
            slate = torch.full((len(SIZES), 1, of_lists.length), -1)
            slate[row, 0, :length] = torch.tensor(order)
            best = max(best, float(of_lists.value(slate)[row, 0]))
    return best


def test_a_loss_is_the_value_that_the_best_continuation_of_a_choice_lacks():
    _, of_lists, _ = tiny()
    values, slates = slate_values(of_lists), torch.full((len(SIZES), 3), -1)
    for row, size in enumerate(SIZES):  # not the best slates
        slates[row, : min(size, 3)] = torch.arange(size).flip(0)[:3]
    losses = losses_along(values, slates, max(SIZES))
    compared = 0
    for row, size in enumerate(SIZES):
        for position in range(min(size, 3)):
            prefix = slates[row, :position].tolist()
            whole = best_value(of_lists, row, size, prefix)
            for item in set(range(size)) - set(prefix):
                expected = best_value(of_lists, row, size, [*prefix, item]) - whole
                loss = float(losses[row, position, item])
                assert loss == pytest.approx(expected, abs=1e-5)
                compared += abs(expected) > 1e-3
    assert compared > 20  # most choices do lose something
    assert losses.isfinite().all()
    assert (losses <= 0).all()


def test_lessons_of_the_exhaustive_teacher_are_the_best_slates_and_resume_from_files(tmp_path):
    objective, of_lists, lists = tiny()
    settings, device = SearchConfig(teacher="exhaustive"), torch.device("cpu")
    files = TeacherFiles(tmp_path / "teacher", "digest")
    lessons = teach(objective, settings, lists, device, files)
    assert lessons.slates.equal(try_all_slates(of_lists))
    assert lessons.values is not None
    assert lessons.values.equal(slate_values(of_lists))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "slate_values", lambda _: pytest.fail("searched again"))
        again = teach(objective, settings, lists, device, files)
    assert again.slates.equal(lessons.slates)
    assert again.values is not None
    assert again.values.equal(lessons.values)
    assert teach(objective, SearchConfig(), lists, device, None).values is None


def test_slates_of_a_list_are_its_ordered_choices():
    assert orders_of(3, 2).tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert orders_of(2, 5).tolist() == [[0, 1], [1, 0]]
