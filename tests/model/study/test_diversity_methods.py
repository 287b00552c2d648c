"""Methods of diversification on tiny lists, against their definitions in plain loops."""

import numpy as np
import pytest
from scipy.special import expit

from model.study.diversity_methods import (
    bonus,
    compose,
    dpp,
    mmr,
    pm2,
    value_shares,
    xquad,
)
from model.study.diversity_metrics import cosine_similarity, number_values
from service.engine.intent import DiversityTerm, build_intent

# Two likely dramas, a less likely comedy and an unlikely item without values.
LOGITS = np.array([[2.0, 1.8, 1.0, -1.0]])
VALUES = number_values([[["drama"], ["drama"], ["comedy"], []]], 4)
MASK = np.ones((1, 4), np.bool_)
LENGTH = 4


def random_lists(seed, lists=12, longest=8, width=5):
    draw = np.random.default_rng(seed)
    mask = np.arange(longest) < draw.integers(4, longest + 1, lists)[:, None]
    values = (draw.random((lists, longest, width)) < 0.4) & mask[:, :, None]
    return draw.normal(size=(lists, longest)), values, mask


def by_loops(logits, values, mask, criterion, length=LENGTH):
    """Compose one slate by calling criterion(item, slate) for every candidate that is left."""
    slate: list[int] = []
    for _ in range(length):
        left = [item for item in np.flatnonzero(mask).tolist() if item not in slate]
        slate.append(max(left, key=lambda item: criterion(item, list(slate))))
    return slate


def assert_equal_by_loops(method, criterion_of, seed=0):
    logits, values, mask = random_lists(seed)
    slates = compose(method(logits, values), mask, LENGTH)
    for row, slate in enumerate(slates):
        criterion = criterion_of(logits[row], values[row])
        assert slate.tolist() == by_loops(logits[row], values[row], mask[row], criterion)
    plain = compose(lambda _item: logits, mask, LENGTH)
    assert (slates != plain).any()


@pytest.mark.parametrize(
    ("method", "options", "slate"),
    [
        (mmr, {"relevance": "logit"}, [0, 2, 1, 3]),
        (mmr, {"relevance": "probability"}, [0, 2, 3, 1]),
        (xquad, {"prior": "uniform", "redundancy": 1.0}, [0, 2, 1, 3]),
        (dpp, {"mixing": 0.99}, [0, 2, 3, 1]),
        (pm2, {"prior": "uniform"}, [0, 2, 1, 3]),
        (bonus, {"law": "sum", "decay": 0.9}, [0, 2, 1, 3]),
    ],
)
def test_a_large_weight_puts_the_comedy_second(method, options, slate):
    weight = 0.6
    assert compose(method(LOGITS, VALUES, weight, **options), MASK, 4)[0].tolist() == slate


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (mmr, {"relevance": "logit"}),
        (mmr, {"relevance": "probability"}),
        (xquad, {"prior": "mass", "redundancy": 1.0}),
        (dpp, {"mixing": 0.9}),
        (bonus, {"law": "mean", "decay": 0.5}),
    ],
)
def test_weight_0_sorts_by_the_logits(method, options):
    logits, values, mask = random_lists(5)
    slates = compose(method(logits, values, 0.0, **options), mask, LENGTH)
    assert (slates == compose(lambda _item: logits, mask, LENGTH)).all()


def test_a_short_list_ends_in_empty_positions():
    logits, values, mask = random_lists(3)
    slates = compose(mmr(logits, values, 0.3, "logit"), mask, 10)
    assert ((slates >= 0).sum(axis=1) == mask.sum(axis=1)).all()
    assert all(len(set(s[s >= 0])) == (s >= 0).sum() for s in slates)


def test_mmr_weighs_relevance_against_the_largest_cosine():
    def criterion_of(logits, values):
        cosine = cosine_similarity(values[None])[0]
        return lambda item, slate: (
            0.4 * logits[item] - 0.6 * max([cosine[item, other] for other in slate], default=0.0)
        )

    assert_equal_by_loops(lambda logits, values: mmr(logits, values, 0.6, "logit"), criterion_of)


@pytest.mark.parametrize("prior", ["uniform", "mass"])
def test_xquad_weighs_relevance_against_values_not_served_yet(prior):
    def criterion_of(logits, values):
        likes = expit(logits)
        shares = value_shares(likes[None], values[None], prior)[0]

        def criterion(item, slate):
            fresh = sum(
                shares[v] * np.prod([1 - 0.5 * likes[j] * values[j, v] for j in slate])
                for v in np.flatnonzero(values[item])
            )
            return 0.2 * likes[item] + 0.8 * likes[item] * fresh

        return criterion

    assert_equal_by_loops(
        lambda logits, values: xquad(logits, values, 0.8, prior, 0.5), criterion_of
    )


def test_dpp_ascends_the_determinant_of_its_kernel():
    weight, mixing = 0.5, 0.9

    def criterion_of(logits, values):
        kernel = mixing * cosine_similarity(values[None])[0].astype(np.float64)
        np.fill_diagonal(kernel, 1.0)

        def criterion(item, slate):
            chosen = [*slate, item]
            _, volume = np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])
            return (1 - weight) * logits[chosen].sum() + weight * volume

        return criterion

    assert_equal_by_loops(lambda logits, values: dpp(logits, values, weight, mixing), criterion_of)


def test_pm2_fills_seats_in_proportion_to_the_shares():
    def criterion_of(logits, values):
        likes = expit(logits)
        shares = value_shares(likes[None], values[None], "mass")[0]

        def criterion(item, slate):
            seats = np.zeros(len(shares))
            for other in slate:
                votes = values[other] * likes[other]
                seats += votes / max(votes.sum(), 1e-30)
            quotient = shares / (2 * seats + 1)
            factor = np.full(len(shares), 0.3)
            factor[quotient.argmax()] = 0.7
            return (factor * quotient * values[item]).sum() * likes[item] + 1e-9 * likes[item]

        return criterion

    assert_equal_by_loops(lambda logits, values: pm2(logits, values, 0.7, "mass"), criterion_of)


@pytest.mark.parametrize("law", ["sum", "mean"])
def test_the_bonus_falls_with_the_number_of_items_that_have_the_value(law):
    def criterion_of(logits, values):
        def criterion(item, slate):
            present = np.flatnonzero(values[item])
            if not len(present):
                return logits[item]
            kept = sum(0.6 ** sum(values[j, v] for j in slate) for v in present)
            return logits[item] + 1.5 * np.log(kept / (len(present) if law == "mean" else 1))

        return criterion

    assert_equal_by_loops(lambda logits, values: bonus(logits, values, 1.5, law, 0.4), criterion_of)


@pytest.mark.parametrize("law", ["sum", "mean"])
def test_the_bonus_is_the_adjustment_of_the_service(law):
    logits, values, mask = random_lists(7)
    slates = compose(bonus(logits, values, 1.5, law, 0.4), mask, LENGTH)
    for slate, scores, of_list, present in zip(slates, logits, values, mask, strict=True):
        listed = [np.flatnonzero(row).tolist() for row in of_list[present]]
        intent = build_intent([DiversityTerm("genres", 1.5, 0.4, law)], [listed])
        adjusted = scores[present] + intent.adjustment(slate.tolist())
        for position in range(LENGTH):
            adjusted[position:, slate[position]] -= 1e9 * (np.arange(LENGTH - position) > 0)
        assert adjusted.argmax(axis=1).tolist() == slate.tolist()


def test_shares_of_values_add_up_and_follow_the_expected_likes():
    shares = value_shares(expit(LOGITS), VALUES, "mass")
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    drama, comedy = expit(2.0) + expit(1.8), expit(1.0)
    assert shares[0].tolist() == pytest.approx(
        [drama / (drama + comedy), comedy / (drama + comedy)]
    )
    assert value_shares(expit(LOGITS), VALUES, "uniform")[0].tolist() == [0.5, 0.5]
