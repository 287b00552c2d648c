"""The teacher finds the best slates of tiny lists, and its files resume an interrupted search."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from model.learning import teacher
from model.learning.policy import Batch
from model.learning.teacher import TeacherFiles, search_beams, teach, try_all_slates
from model.network.config import ConfigError
from model.network.objectives_config import SearchConfig
from tests.support.objectives import config_of, objective_of, random_evaluator, random_lists

TERMS = (
    {"kind": "alpha_dcg", "by": "genres", "weight": 1.0},
    {"kind": "coverage", "by": "genres", "weight": 0.5},
    {"kind": "similarity", "by": "style", "weight": -0.3},
    {"kind": "share", "by": "seller", "weight": 0.4, "value": "small", "target": 0.6},
)
SIZES = [6, 6, 5, 4, 3, 2, 1]


def tiny(*terms, utility=1.0, length=3):
    """Return the objective on tiny lists, some shorter than a slate, and the lists."""
    config = config_of(*terms, utility=utility, length=length)
    lists = random_lists(SIZES)
    objective = objective_of(config, random_evaluator(config))
    return objective.of(Batch(lists, slice(None))), lists


def values(of_lists, slates):
    return of_lists.value(slates.unsqueeze(1)).squeeze(1)


def assert_are_slates(slates, lists):
    for slate, size in zip(slates.tolist(), lists.mask.sum(axis=1).tolist(), strict=True):
        filled = [item for item in slate if item >= 0]
        assert len(set(filled)) == len(filled) == min(len(slate), size)
        assert max(filled) < size
        assert slate == filled + [-1] * (len(slate) - len(filled))


def test_exhaustive_search_is_the_best_of_all_slates_tried_one_by_one():
    of_lists, lists = tiny(*TERMS)
    slates = try_all_slates(of_lists)
    assert_are_slates(slates, lists)
    best = values(of_lists, slates)
    draw = np.random.default_rng(0)
    for _ in range(300):
        tried = torch.full((len(SIZES), 3), -1)
        for row, size in enumerate(SIZES):
            order = torch.from_numpy(draw.permutation(size)[:3])
            tried[row, : len(order)] = order
        assert (values(of_lists, tried) <= best + 1e-6).all()


def test_a_wide_beam_equals_exhaustive_search_under_neighbours_and_terms():
    of_lists, lists = tiny(*TERMS)
    truth = try_all_slates(of_lists)
    wide = search_beams(of_lists, width=math.perm(6, 2))  # every prefix of two of six
    assert_are_slates(wide, lists)
    torch.testing.assert_close(values(of_lists, wide), values(of_lists, truth), rtol=0, atol=1e-5)
    greedy = search_beams(of_lists, 1)
    assert_are_slates(greedy, lists)
    assert (values(of_lists, greedy) <= values(of_lists, truth) + 1e-5).all()
    assert (values(of_lists, greedy) < values(of_lists, truth) - 1e-3).any()


def test_greedy_search_is_exhaustive_where_items_do_not_interact():
    config = config_of(utility=1.0)
    lists = random_lists(SIZES)
    of_lists = objective_of(config).of(Batch(lists, slice(None)))
    greedy, truth = search_beams(of_lists, 1), try_all_slates(of_lists)
    torch.testing.assert_close(values(of_lists, greedy), values(of_lists, truth), rtol=0, atol=1e-6)


def test_greedy_search_is_exhaustive_on_almost_all_tiny_lists_of_expected_alpha_dcg():
    config = config_of(TERMS[0])
    lists = random_lists([6] * 40)
    of_lists = objective_of(config).of(Batch(lists, slice(None)))
    truth = values(of_lists, try_all_slates(of_lists))
    regret = 1 - values(of_lists, search_beams(of_lists, 1)) / truth
    assert float(regret.mean()) < 0.01
    appeal_alone = objective_of(config_of(utility=1.0)).of(Batch(lists, slice(None)))
    by_appeal = 1 - values(of_lists, search_beams(appeal_alone, 1)) / truth
    assert float(by_appeal.mean()) > 0.01


def test_exhaustive_search_refuses_lists_with_too_many_slates():
    config = config_of(*TERMS, length=6)
    of_lists = objective_of(config).of(Batch(random_lists([9]), slice(None)))
    with pytest.raises(ConfigError, match=r"at most 20000 slates, got 60480 slates of 6 of 9"):
        try_all_slates(of_lists)


def test_an_interrupted_search_goes_on_at_the_first_missing_block(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "LISTS_PER_FILE", 4)
    config = config_of(*TERMS)
    lists, settings = random_lists([5] * 10), SearchConfig(teacher="beam")
    objective = objective_of(config)
    files = TeacherFiles(tmp_path / "teacher", "digest")
    whole = teach(objective, settings, lists, torch.device("cpu"), None).slates
    search = teacher.search
    searched = []

    def interrupted(of_lists, settings):
        searched.append(len(of_lists.mask))
        if len(searched) == 2:
            raise KeyboardInterrupt
        return search(of_lists, settings)

    monkeypatch.setattr(teacher, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        teach(objective, settings, lists, torch.device("cpu"), files)
    assert [path.name for path in files.directory.iterdir()] == ["digest-000000.npy"]
    resumed = teach(objective, settings, lists, torch.device("cpu"), files)
    assert resumed.slates.equal(whole)
    assert searched == [4, 4, 4, 2]
    assert teach(objective, settings, lists, torch.device("cpu"), files).slates.equal(whole)
    assert len(searched) == 4


def test_the_digest_of_a_teacher_changes_with_its_evaluator_and_its_search():
    config = dataclasses.replace(config_of(*TERMS), search=SearchConfig())
    lists = random_lists([5])

    def digest(changed=config, seed=0, of=lists):
        return teacher.teacher_digest(changed, random_evaluator(config, seed), of, "data")

    assert digest() == digest()
    wider = dataclasses.replace(config, search=SearchConfig(teacher="beam", width=8))
    others = {digest(), digest(seed=1), digest(wider), digest(of=random_lists([5, 5]))}
    assert len(others) == 4
    epochs = dataclasses.replace(config, search=SearchConfig(epochs=3))
    assert digest(epochs) == digest()
