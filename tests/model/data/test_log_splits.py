"""The splits of a user's log, and the moment of its train split."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from model.data.errors import DataError
from model.data.log_splits import HOUR, SplitOptions, split_log
from model.data.moment import Moment, read_moment
from tests.support.logs import LOG, prepare

PATH = Path("log.csv")
DAY = 24 * HOUR
START = 1_700_000_000_000


def lists(*times, users=None):
    """Return one list per time, by users of one list each."""
    users = users or [f"u{number}" for number in range(len(times))]
    names = [f"r{number}" for number in range(len(times))]
    return pl.DataFrame({"request_id": names, "user_id": users, "timestamp": times})


def splits_of(requests, *arguments, has_time=True):
    divided, moment = split_log(PATH, requests, SplitOptions(*arguments), has_time)
    return divided["split"].to_list(), moment


def test_a_log_of_days_is_split_at_shares_of_its_time_by_default():
    requests = lists(*(START + hour * HOUR for hour in range(0, 101, 10)))
    names, moment = splits_of(requests)
    assert names == ["train"] * 8 + ["valid"] + ["test"] * 2
    assert moment == Moment("time", START + 70 * HOUR, ordered=True)
    names, _ = splits_of(requests, None, 0.3, 0.2)
    assert names == ["train"] * 5 + ["valid"] * 3 + ["test"] * 3


def test_shares_are_of_the_time_and_not_of_the_lists():
    times = [START + hour * HOUR for hour in (0, 85, *range(90, 101))]
    names, _ = splits_of(lists(*times))
    assert names == ["train"] + ["valid"] + ["test"] * 11


def test_no_list_of_any_user_is_trained_on_that_is_later_than_a_held_out_list():
    times = [START + number * DAY // 3 for number in range(90)]
    requests = lists(*times, users=[f"u{number % 7}" for number in range(90)])
    divided, _ = split_log(PATH, requests, SplitOptions(), has_time=True)
    train, valid, test = (
        divided.filter(pl.col("split") == name)["timestamp"].to_list()
        for name in ("train", "valid", "test")
    )
    assert max(train) < min(valid)
    assert max(valid) < min(test)


@pytest.mark.parametrize(("times", "has_time"), [((START, START + HOUR), True), ((1, 99), False)])
def test_a_log_within_an_hour_or_without_times_has_the_last_list_as_test(times, has_time):
    names, moment = splits_of(lists(*times, users=["ada", "ada"]), has_time=has_time)
    assert names == ["train", "test"]
    assert moment == Moment("last-list", None, ordered=False)


def test_a_split_by_last_lists_over_days_has_the_moment_of_the_latest_train_list():
    requests = lists(START, START + DAY, START + 2 * DAY, users=["ada", "bob", "ada"])
    names, moment = splits_of(requests, "last-list")
    assert names == ["train", "train", "test"]
    assert moment == Moment("last-list", START + DAY, ordered=True)
    requests = lists(START, START + DAY, START + 2 * DAY, users=["ada", "ada", "bob"])
    names, moment = splits_of(requests, "last-list")
    assert moment == Moment("last-list", START + 2 * DAY, ordered=False)


def test_a_split_by_users_holds_out_users_that_train_has_not():
    requests = lists(*range(START, START + 40), users=[f"u{number % 20}" for number in range(40)])
    divided, moment = split_log(PATH, requests, SplitOptions("user", 0.2, 0.1), has_time=True)
    assert moment == Moment("user", None, ordered=False)
    users = {name: set(part["user_id"]) for (name,), part in divided.group_by("split")}
    assert (len(users["valid"]), len(users["test"])) == (4, 2)
    assert not users["train"] & (users["valid"] | users["test"])
    assert users["history"] == users["valid"] | users["test"]


def test_a_column_counts_before_everything_else_and_is_ordered_if_its_times_are():
    requests = lists(START, START + DAY, START + 2 * DAY)
    ordered = requests.with_columns(split=pl.Series(["train", "valid", "test"]))
    names, moment = splits_of(ordered)
    assert (names, moment) == (["train", "valid", "test"], Moment("column", START, True))
    mixed = requests.with_columns(split=pl.Series(["train", "test", "train"]))
    assert splits_of(mixed)[1] == Moment("column", START + 2 * DAY, ordered=False)
    assert splits_of(mixed, "last-list")[0] == ["train"] * 3


def test_an_empty_split_is_refused_with_counts_and_the_list_that_lies_far_away():
    times = [0, *(START + number * HOUR for number in range(50))]
    with pytest.raises(DataError) as caught:
        splits_of(lists(*times))
    assert str(caught.value) == (
        "log.csv, column timestamp: --split time must leave no split empty; it has 1 train, "
        "0 valid, 50 test lists; request 'r0' at 0 (1970-01-01T00:00:00.000Z) lies far from the "
        "others; correct it"
    )
    with pytest.raises(DataError, match=r"request 'r50' at 40{14} \(40{14}\) lies far from"):
        splits_of(lists(*times[1:], 400_000_000_000_000))
    with pytest.raises(DataError, match=r"it has 2 train, 0 valid, 1 test lists; choose other"):
        splits_of(lists(START, START + HOUR, START + 2 * HOUR))
    with pytest.raises(DataError, match=r"column user_id: --split user .* 2 train, 0 valid, 0 t"):
        splits_of(lists(START, START + HOUR), "user")


@pytest.mark.parametrize(
    ("arguments", "has_time", "message"),
    [
        (("time",), False, "column timestamp: is missing, but --split time reads it"),
        (("column",), True, "column split: is missing, but --split column reads it"),
        ((None, 0.0), True, "--valid-share: must be above 0 and below 1, got 0.0"),
        ((None, 0.1, 1.0), True, "--test-share: must be above 0 and below 1, got 1.0"),
        ((None, 0.5, 0.5), True, "--valid-share: must leave a share for train beside --test-sh"),
    ],
)
def test_an_impossible_split_is_refused(arguments, has_time, message):
    with pytest.raises(DataError, match=message):
        splits_of(lists(START, START + DAY), *arguments, has_time=has_time)


def test_the_command_records_split_and_moment_and_prints_them(tmp_path):
    log = LOG.replace("ada,1,", f"ada,{START},").replace("ada,2,", f"ada,{START + DAY},")
    log += f"r3,bob,{START + DAY // 2},0,tea,1,,3,9\n"
    (tmp_path / "log.csv").write_text(log)
    (tmp_path / "schema.yaml").write_text("name: shop\nfeatures: []\n")
    arguments = ["--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml"]
    arguments += ["--out", tmp_path / "shop", "--valid-share", "0.4", "--test-share", "0.2"]
    printed = prepare("impressions", *arguments)
    assert read_moment(tmp_path / "shop") == Moment("time", START, ordered=True)
    assert "shop: split time, as of 2023-11-14T22:13:20.000Z\n" in printed
    prepare("impressions", *arguments, "--split", "last-list")
    assert read_moment(tmp_path / "shop") == Moment("last-list", START + DAY // 2, ordered=True)


@pytest.mark.parametrize(
    ("split", "remarked"), [("last-list", True), ("user", True), ("time", False)]
)
def test_test_lists_before_the_moment_of_the_item_table_are_remarked_upon(
    tmp_path, split, remarked
):
    rows = [f"r{n},u{n // 3},{START + n * DAY},0,tea,{n % 2},,3,9" for n in range(60)]
    rows += [f"r{n},u{n // 3},{START + n * DAY},1,ink,{1 - n % 2},,3,9" for n in range(60)]
    (tmp_path / "log.csv").write_text("\n".join([LOG.splitlines()[0], *rows]))
    (tmp_path / "schema.yaml").write_text("name: shop\nfeatures: []\n")
    inputs = ("--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml")
    printed = prepare("impressions", *inputs, "--split", split, "--out", tmp_path / "shop")
    assert (f"with --split {split}, test lists from 20" in printed) == remarked
    assert ("are ranked with item tables as of 20" in printed) == remarked


def test_times_that_look_like_seconds_are_remarked_upon(shop):
    for time, remarked in ((1_700_000_000, True), (1_700_000_000_000, False), (2, False)):
        log = LOG.replace("ada,1,", f"ada,{time},").replace("ada,2,", f"ada,{time},")
        summary = (shop(log) / "summary.json").read_text()
        text = "column timestamp: 1700000000 is read as milliseconds, 1970-01-20T16:13:20.000Z; if"
        assert (text in summary) == remarked


@pytest.mark.parametrize("text", ["{", "[]", '{"time": 3}', '{"time": {"split": "time"}}'])
def test_a_record_that_cannot_be_read_is_an_error_that_names_its_file(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(DataError, match=r"summary\.json, column time: cannot be read \("):
        read_moment(tmp_path)
