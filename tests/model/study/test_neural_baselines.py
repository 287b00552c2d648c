"""The neural baselines learn a simple rule and follow the definitions of their papers."""

import numpy as np
import pytest
import torch

from model.data.lists import Arrays, Lists
from model.data.metrics import slate_metrics
from model.learning.policy import Batch
from model.network.layers import MASKED
from model.study import neural_baselines
from model.study.neural_baselines import (
    Matcher,
    assign,
    matching_loss,
    nar4rec,
    seq2slate,
)

VOCABULARY = 12
ALL = [nar4rec, seq2slate]


def make_lists(rows: int, seed: int, size: int = 8) -> Lists:
    """Draw lists whose likes are the three candidates of the largest first number."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=(rows, size, 4)).astype(np.float32)
    mask = np.ones((rows, size), np.bool_)
    mask[::3, -2:] = False
    numbers[~mask] = 0.0
    value = np.where(mask, numbers[:, :, 0], -np.inf)
    labels = (value >= np.sort(value, axis=1)[:, -3:-2]).astype(np.float32)
    tokens = draw.integers(1, VOCABULARY, (rows, size, 2)) * mask[:, :, None]
    return Lists.of(Arrays(numbers, tokens, mask, labels)._asdict())


@pytest.fixture(scope="module")
def splits():
    return make_lists(192, 0), make_lists(48, 1), make_lists(48, 2)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(neural_baselines, "EPOCHS", 4)


@pytest.mark.parametrize("model", ALL)
def test_every_model_learns_to_rank_by_the_first_number_without_repeats(model, splits):
    test = splits[2]
    slate = model(*splits, 5, 0, VOCABULARY)
    assert slate.shape == (len(test), 5)
    assert slate.dtype == np.int64
    assert all(len(set(row)) == 5 for row in slate.tolist())
    assert np.take_along_axis(test.mask, slate, axis=1).all()
    learnt = slate_metrics(slate, test.labels)["ndcg@5"].mean()
    shuffled = np.random.default_rng(0).permuted(slate, axis=1)
    assert learnt > 0.85
    # The same items in random order are worse.
    assert slate_metrics(shuffled, test.labels)["ndcg@5"].mean() < learnt - 0.1


@pytest.mark.parametrize("model", ALL)
def test_slates_depend_on_the_seed_not_on_random_state_or_test_labels(model, splits, monkeypatch):
    monkeypatch.setattr(neural_baselines, "EPOCHS", 1)
    train, valid, test = splits
    train = train.take(slice(64))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    slate = model(train, valid, test, 8, 3, VOCABULARY)
    assert torch.equal(torch.random.get_rng_state(), before)
    blank = np.arange(8) >= test.mask.sum(axis=1, keepdims=True)
    assert np.array_equal(slate == -1, blank)
    torch.manual_seed(2)
    other = Lists({**test.arrays, "labels": 1.0 - test.arrays["labels"]}, test.rows)
    assert np.array_equal(slate, model(train, valid, other, 8, 3, VOCABULARY))
    assert not np.array_equal(slate, model(train, valid, test, 8, 4, VOCABULARY))


def test_training_keeps_the_epoch_that_validates_best(splits):
    train, valid, _ = splits
    torch.manual_seed(0)
    module, scores = torch.nn.Linear(1, 1), iter([0.1, 0.3, 0.2])
    weights = []

    def slates(lists):
        """Rank likes first in the share of lists that the next score names, last in the others."""
        weights.append(module.weight.item())
        good = np.argsort(-lists.labels, axis=1)[:, :5]
        bad = np.argsort(lists.labels - lists.mask, axis=1)[:, :5]
        return np.where(np.arange(len(lists))[:, None] < next(scores) * len(lists), good, bad)

    def loss(_batch):
        return module.weight.square().sum()

    neural_baselines.learn("toy", module, loss, slates, train, valid, epochs=2)
    assert module.weight.item() == weights[1]
    assert len(set(weights)) == 3


def test_the_matching_loss_stops_where_no_like_is_left():
    logits = torch.zeros(1, 3, 4)
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    even = matching_loss(logits, labels).item()
    assert even == pytest.approx(np.log(4), abs=1e-6)  # a like has 1/4 at both positions
    logits[0, 2] = torch.tensor([-9.0, 9.0, -9.0, 9.0])  # the third has no target
    assert matching_loss(logits, labels).item() == pytest.approx(even, abs=1e-6)
    logits[0, 1] = logits[0, 2]
    assert matching_loss(logits, labels).item() > even + 1.0


def test_positions_are_assigned_in_turn_without_repeats():
    logits = np.array([[[1.0, 5.0, 3.0, 9.0], [0.0, 8.0, 2.0, 9.0], [7.0, 0.0, 0.0, 9.0]]])
    mask = np.array([[True, True, True, False]])
    assert assign(logits, mask).tolist() == [[1, 2, 0]]
    assert assign(logits, np.array([[False, True, False, False]])).tolist() == [[1, -1, -1]]


def test_matching_logits_permute_with_their_candidates(splits):
    batch = Batch(splits[0], slice(4))
    torch.manual_seed(0)
    matcher = Matcher(4, VOCABULARY, 5).eval()
    logits = matcher(batch)
    assert logits.shape == (4, 5, 8)
    assert (logits.masked_select(~batch.mask.unsqueeze(1)) == MASKED).all()
    flipped = Batch(splits[0], slice(4))
    flipped.numbers = batch.numbers.flip(1)
    flipped.tokens, flipped.mask = batch.tokens.flip(1), batch.mask.flip(1)
    torch.testing.assert_close(matcher(flipped).flip(2), logits, atol=1e-5, rtol=0)
