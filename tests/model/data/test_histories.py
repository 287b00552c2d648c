"""Histories of the lists of a data set."""

import random
import shutil
import tracemalloc

import polars as pl
import pytest

from model.data import chunks, prepare, user_lists
from model.data.dataset import Dataset
from model.data.histories import ANSWER, HistoryWindow, ListColumns

SCHEMA = """
name: tiny
history: {limit: 4, kernels: [genres], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic}
  - {name: genres, of: item, kind: categories, width: 1}
"""
SPLITS = ("train", "train", "history", "train", "valid", "test")


@pytest.fixture
def data(tmp_path):
    """Prepare lists 0..5 of one user in the splits above; list n holds items na (liked) and nb."""
    rows = [
        (f"r{n}", "ada", n, position, f"{n}{'ab'[position]}", 1 - position, split, "x")
        for n, split in enumerate(SPLITS)
        for position in range(2)
    ]
    names = "request_id,user_id,timestamp,position,item_id,label,split,genres"
    lines = [names, *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    prepare.prepare_impressions(tmp_path / "log.csv", tmp_path / "schema.yaml", tmp_path / "tiny")
    return tmp_path / "tiny"


def history_of(data, request):
    impressions = Dataset(data).impressions(SPLITS)
    history = next(i.request.history for i in impressions if i.request_id == request)
    assert all(label == item.endswith("a") for item, label in history)
    return [item for item, _ in history]


def test_a_valid_or_test_list_has_the_latest_answers_before_it(data):
    assert history_of(data, "r4") == ["2a", "2b", "3a", "3b"]
    assert history_of(data, "r5") == ["3a", "3b", "4a", "4b"]


def test_a_train_list_has_answers_of_other_train_lists_and_earlier_ones_first(data):
    assert history_of(data, "r0") == ["1a", "1b", "3a", "3b"]
    assert history_of(data, "r1") == ["0a", "0b", "3a", "3b"]
    # Lists 0 and 1 fill the limit of four entries.
    assert history_of(data, "r3") == ["0a", "0b", "1a", "1b"]


def test_later_train_lists_fill_only_the_room_that_earlier_ones_leave(data):
    schema = data / "schema.yaml"
    schema.write_text(schema.read_text().replace("limit: 4", "limit: 3"))
    assert history_of(data, "r3") == ["0b", "1a", "1b"]
    assert history_of(data, "r1") == ["0a", "0b", "3a"]


def test_a_histories_file_replaces_the_answers_of_the_users_lists(data):
    entries = [("r5", f"{n}{'ab'[n % 2]}", float(n % 2 == 0)) for n in range(6)]
    entries += [("r0", "4a", 1.0)]
    before = Dataset(data).digest()
    frame = pl.DataFrame(entries, schema=["request_id", "item_id", "label"], orient="row")
    frame.write_parquet(data / "histories.parquet")
    assert history_of(data, "r5") == ["2a", "3b", "4a", "5b"]  # the latest four
    assert history_of(data, "r0") == ["4a"]
    assert history_of(data, "r1") == []
    assert Dataset(data).digest() != before


def history_of_list(lists, index, limit, ordered):
    """Return the history of a list by its definition, from all lists of its user."""

    def answers(chosen):
        pairs = [zip(one["item_id"], one["label"], strict=True) for one in chosen]
        return [pair for one in pairs for pair in one]

    this = lists[index]
    if ordered:
        return answers(o for o in lists if o["timestamp"][0] < this["timestamp"][0])[-limit:]
    if this["split"][0] != "train":
        return answers(lists[:index])[-limit:]
    before = answers(o for o in lists[:index] if o["split"][0] == "train")[-limit:]
    after = answers(o for o in lists[index + 1 :] if o["split"][0] == "train")
    return (before + after)[:limit]


@pytest.mark.parametrize("seed", range(40))
def test_a_window_holds_the_history_that_all_lists_of_the_user_give(seed):
    draw = random.Random(seed)
    sizes = [draw.randint(1, 5) for _ in range(draw.randint(1, 12))]
    times = sorted(draw.choices(range(6), k=len(sizes)))
    lists: list[ListColumns] = [
        {
            "item_id": [f"{n}.{i}" for i in range(size)],
            "label": [draw.random() for _ in range(size)],
            "timestamp": [time] * size,
            "split": [draw.choice(SPLITS)] * size,
        }
        for n, (size, time) in enumerate(zip(sizes, times, strict=True))
    ]
    limit = draw.randint(1, 12)
    train = [one for one in lists if one["split"][0] == "train"]
    answers = [pair for one in train for pair in zip(one["item_id"], one["label"], strict=True)]
    for ordered in (False, True):
        window = HistoryWindow(limit, ordered, ANSWER, answers[: limit + max(sizes)])
        for index, columns in enumerate(lists):
            expected = history_of_list(lists, index, limit, ordered)
            assert window.history(columns) == expected
            window.add(columns)


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """Prepare a log in which one of three users has 1,200 of the 1,206 lists of ten."""
    directory = tmp_path_factory.mktemp("busy")
    draw = random.Random(0)
    users = ["u"] * 3 + ["bot"] * 1200 + ["v"] * 3
    rows = [
        (f"r{n:04}", user, n, position, f"i{draw.randrange(50)}.{position}", position % 2, "x")
        for n, user in enumerate(users)
        for position in range(10)
    ]
    names = ("request_id", "user_id", "timestamp", "position", "item_id", "label", "genres")
    frame = pl.DataFrame(rows, names, orient="row")
    codes = (pl.col("timestamp") * 7 % 5 % 3).replace_strict(dict(enumerate(SPLITS[1:4])))
    of_v = pl.when(pl.col("user_id") == "v").then(pl.lit("test"))
    frame = frame.with_columns(split=of_v.otherwise(codes))
    frame.write_parquet(directory / "log.parquet")
    (directory / "schema.yaml").write_text(SCHEMA)
    log, schema = directory / "log.parquet", directory / "schema.yaml"
    prepare.prepare_impressions(log, schema, directory / "busy")
    return directory / "busy"


def test_a_user_of_many_rows_is_read_in_parts_with_the_same_lists(busy, monkeypatch):
    whole = list(Dataset(busy).impressions(["train", "test"]))
    requests = Dataset(busy).requests(["train", "test"])
    monkeypatch.setattr(chunks, "ROWS_PER_CHUNK", 333)
    monkeypatch.setattr(user_lists, "ROWS_PER_BLOCK", 50)
    parts = Dataset(busy)
    assert len(list(parts._by_user[0].frames(["train"]))) > 30
    assert list(parts.impressions(["train", "test"])) == whole
    assert parts.requests(["train", "test"]).equals(requests)


def test_a_user_of_many_rows_that_are_not_sorted_is_read_too(busy, monkeypatch, tmp_path):
    whole = list(Dataset(busy).impressions(["train", "test"]))
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in busy.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    rows = pl.read_parquet(busy / "impressions.parquet")
    shuffled = (
        rows["request_id"].unique(maintain_order=True).sample(fraction=1.0, shuffle=True, seed=1)
    )
    rows = shuffled.to_frame().join(rows, on="request_id", maintain_order="left_right")
    rows.write_parquet(copy / "impressions.parquet")
    monkeypatch.setattr(chunks, "ROWS_PER_CHUNK", 333)
    lists = Dataset(copy).impressions(["train", "test"])
    assert {one.request_id: one for one in lists} == {one.request_id: one for one in whole}


def test_memory_does_not_grow_with_the_lists_of_a_user(busy, monkeypatch):
    monkeypatch.setattr(chunks, "ROWS_PER_CHUNK", 400)
    monkeypatch.setattr(user_lists, "ROWS_PER_BLOCK", 400)
    data = Dataset(busy)
    lists = data.impressions(["train", "valid", "test", "history"])
    next(lists)
    tracemalloc.start()
    try:
        assert sum(1 for _ in lists) == 1205
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 700_000  # all rows as Python objects take 4 MB


def test_rows_held_at_once_are_fewer_in_a_wide_log_with_the_same_lists(busy, tmp_path, monkeypatch):
    wide = shutil.copytree(busy, tmp_path / "wide")
    names = [f"n{index}" for index in range(100)]
    schema = (wide / "schema.yaml").read_text()
    lines = [f"  - {{name: {name}, of: candidate, kind: number}}\n" for name in names]
    (wide / "schema.yaml").write_text(schema + "".join(lines))
    rows = pl.read_parquet(busy / "impressions.parquet").head(3_000)
    numbers = [(pl.col("position") * index / 7).alias(name) for index, name in enumerate(names)]
    rows.with_columns(numbers).write_parquet(wide / "impressions.parquet")
    whole = [one.request_id for one in Dataset(wide).impressions(["train"])]
    monkeypatch.setattr(chunks, "CELLS_PER_CHUNK", 60_000)
    monkeypatch.setattr(user_lists, "CELLS_PER_BLOCK", 6_000)
    data = Dataset(wide)
    heights = [len(frame) for frame in data._by_user[0].frames(["train"])]
    assert max(heights) * 100 <= 60_000 < 3_000 * 100
    lists = data.impressions(["train"])
    first = [next(lists).request_id]
    tracemalloc.start()
    try:
        assert first + [one.request_id for one in lists] == whole
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000  # all values as Python objects take 10 MB
