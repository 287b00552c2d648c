"""Item effects and LambdaMART on lists whose true item values are set here."""

import shutil

import numpy as np
import polars as pl
import pytest

from model.data.dataset import Dataset
from model.data.lists import Arrays, Lists
from model.data.metrics import slate_metrics
from model.data.prepare import prepare_impressions
from model.study import lambdamart
from model.study.baselines import item_logit
from model.study.item_logit import item_effects
from service.engine.features.schema import LabelScale

ITEMS, SIZE = 40, 8
SCHEMA = """
name: shop
features:
  - {name: price, of: item, kind: number}
  - {name: genre, of: item, kind: category}
"""


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Draw logged lists of items of value -2 to 2, half of it predictable from their price.

    Users differ in generosity, and display bias works against the value: the worse an item, the
    nearer to the top it is listed, where likes are more frequent. i39 is in no train list.
    """
    directory = tmp_path_factory.mktemp("shop")
    draw = np.random.default_rng(0)
    price = draw.normal(size=ITEMS)
    worth = price + 0.7 * draw.normal(size=ITEMS)
    rows = []
    for user in range(150):
        generosity = draw.normal()
        for number in range(4):
            train = number < 2
            listed = draw.choice(ITEMS - train, SIZE, replace=False)
            listed = listed[np.argsort(worth[listed] + draw.normal(size=SIZE))]
            logit = worth[listed] + generosity - 2.5 * np.linspace(0, 1, SIZE)
            liked = draw.random(SIZE) < sigmoid(logit)
            rows += [
                {"request_id": f"u{user}-{number}", "user_id": f"u{user}", "timestamp": number,
                 "position": position, "item_id": f"i{item}", "label": float(like)}
                for position, (item, like) in enumerate(zip(listed, liked, strict=True))
            ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(directory / "log.parquet")
    items = {"item_id": [f"i{item}" for item in range(ITEMS)], "price": price}
    genres = [f"g{item % 3}" for item in range(ITEMS)]
    pl.DataFrame({**items, "genre": genres}).write_parquet(directory / "items.parquet")
    (directory / "schema.yaml").write_text(SCHEMA)
    out = directory / "shop"
    prepare_impressions(
        directory / "log.parquet", directory / "schema.yaml", out, directory / "items.parquet"
    )
    return Dataset(out), worth


def test_item_effects_correlate_with_the_values_better_than_the_like_rate(shop):
    dataset, worth = shop
    effects = item_effects(dataset)
    train = dataset.rows.filter(pl.col("split") == "train").collect()
    rate = dict(train.group_by("item_id").agg(pl.col("label").mean()).iter_rows())
    ids = [f"i{item}" for item in range(ITEMS - 1)]
    truth = worth[: ITEMS - 1]
    assert np.corrcoef([effects[i] for i in ids], truth)[0, 1] > 0.9
    assert np.corrcoef([rate[i] for i in ids], truth)[0, 1] < 0.9


def test_an_item_in_no_train_list_has_the_effect_of_its_metadata(shop):
    dataset, _ = shop
    price = dict(dataset.items.select("item_id", "price").iter_rows())
    effects = item_effects(dataset)
    unseen = effects.pop("i39")
    slope, start = np.polyfit([price[i] for i in effects], list(effects.values()), 1)
    assert unseen == pytest.approx(slope * price["i39"] + start, abs=0.5)
    assert abs(slope * price["i39"]) > 0.5  # the mean of all items would not pass


def test_item_effects_read_train_labels_only(shop):
    dataset, _ = shop
    effects = item_effects(dataset)
    flipped = Dataset(dataset.directory)
    for splits, same in ((["valid", "test"], True), (["train"], False)):
        chosen = pl.col("split").is_in(splits)
        label = pl.when(chosen).then(1.0 - pl.col("label")).otherwise(pl.col("label"))
        flipped.rows = dataset.rows.with_columns(label.cast(pl.Float32).alias("label"))
        assert (item_effects(flipped) == effects) is same


def test_item_logit_sorts_each_list_by_the_effects_of_its_items(shop):
    dataset, _ = shop
    effects, lists = item_effects(dataset), dataset.lists(["test"]).take([5, 3])
    slates = item_logit(lists, 4, dataset, "test")
    requests = dataset.requests(["test"])["request_id"].gather(lists.rows)
    for request, slate in zip(requests, slates, strict=True):
        listed = dataset.rows.filter(pl.col("request_id") == request).collect()["item_id"].to_list()
        best = sorted(listed, key=lambda item: -effects[item])[:4]
        assert [listed[index] for index in slate] == best


def make_lists(rows: int, seed: int) -> Lists:
    """Draw lists in which candidates of large numbers are liked, more so with token 3."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=(rows, SIZE, 5)).astype(np.float32)
    tokens = draw.integers(1, 6, (rows, SIZE, 1))
    mask = np.ones((rows, SIZE), np.bool_)
    mask[::4, -3:] = False
    logit = numbers.sum(axis=2) + 2.5 * (tokens[:, :, 0] == 3) - 1.0
    labels = ((draw.random(mask.shape) < sigmoid(logit)) & mask).astype(np.float32)
    arrays = Arrays(numbers, tokens * mask[:, :, None], mask, labels)
    return Lists.of(arrays._asdict()).rankable()


@pytest.fixture(scope="module")
def splits():
    return make_lists(600, 0), make_lists(200, 1), make_lists(200, 2)


@pytest.fixture(scope="module")
def ranker(splits):
    return lambdamart.fit(splits[0], splits[1], 0, 6)


def ndcg(lists, scores):
    slate = np.argsort(-scores, axis=1)
    return slate_metrics(slate, lists.labels)["ndcg@5"].mean()


def test_lambdamart_learns_from_numbers_and_common_tokens(ranker, splits, monkeypatch):
    train, valid, test = splits
    learnt = ndcg(test, ranker.score(test))
    assert learnt > ndcg(test, np.where(test.mask, test.numbers[:, :, 0], -np.inf)) + 0.1
    monkeypatch.setattr(lambdamart, "COMMON", 1.1)
    without = lambdamart.fit(train, valid, 0, 6)
    assert len(without.tokens) == 0
    assert learnt > ndcg(test, without.score(test)) + 0.02


def test_scores_are_finite_only_at_candidates_and_ignore_the_lists_labels(ranker, splits):
    test = splits[2]
    scores = ranker.score(test)
    assert np.array_equal(np.isfinite(scores), test.mask)
    other = Lists({**test.arrays, "labels": 1.0 - test.arrays["labels"]}, test.rows)
    assert np.array_equal(ranker.score(other), scores)


def test_boosters_stop_early_and_refit_to_the_same_rounds(ranker, splits):
    assert all(0 < rounds < lambdamart.ROUNDS for rounds in ranker.rounds)
    again = lambdamart.fit(splits[0], ranker.rounds, 0, 6)
    assert np.array_equal(again.score(splits[2]), ranker.score(splits[2]))
    longer = lambdamart.fit(splits[0], [r + 5 for r in ranker.rounds], 0, 6)
    assert not np.array_equal(longer.score(splits[2]), ranker.score(splits[2]))


def test_another_seed_gives_another_ranker(ranker, splits):
    other = lambdamart.fit(splits[0], ranker.rounds, 1, 6)
    assert not np.array_equal(other.score(splits[2]), ranker.score(splits[2]))


@pytest.mark.parametrize(
    ("scale", "labels", "relevance", "gains"),
    [
        (LabelScale((0, 4)), [0, 0.5, 1], [0, 0, 1], None),
        (LabelScale((0, 4), "exponential"), [0, 0.5, 0.75], [0, 2, 3], [0, 1, 3, 7, 15]),
        (LabelScale((1, 4), "linear"), [0, 1 / 3, 1], [0, 1, 3], [0, 1, 2, 3]),
        (LabelScale((0, 1), "linear"), [0, 0.333, 1], [0, 33, 100], list(range(101))),
    ],
)
def test_lambdamart_gets_whole_grades_or_equal_steps_of_the_gain(scale, labels, relevance, gains):
    arrays = Arrays.zeros(1, 3, 1, 0)
    arrays.mask[:], arrays.labels[:] = True, labels
    levels, parameters = lambdamart.levels(Lists.of(arrays._asdict(), scale))
    assert levels.tolist() == relevance
    assert parameters.get("label_gain") == (None if gains is None else pytest.approx(gains))


def test_item_effects_of_graded_gains_equal_those_of_binary_ones_on_labels_of_0_and_1(
    shop, tmp_path
):
    copy = shutil.copytree(shop[0].directory, tmp_path / "shop")
    schema = (copy / "schema.yaml").read_text() + "label: {range: [0, 1], gain: linear}\n"
    (copy / "schema.yaml").write_text(schema)
    assert item_effects(Dataset(copy)) == item_effects(shop[0])
