"""Preparing KuaiRand from generated files with the published columns."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.data import kuairand, prepare
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.kuairand import SessionOptions
from model.data.schemas import SCHEMAS, load_schema
from model.learning.train import train
from model.network.config import Config

ROOT = Path(__file__).parents[3]
START = 1_649_347_200_000  # 2022-04-08, midnight in China
MINUTE, DAY = 60_000, 86_400_000
CLICKS = SessionOptions("is_click", 30, 10, 5)
LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
    "server_width,server_height,music_id,music_type,tag"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
    "follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
    "friend_user_num_range,register_days,register_days_range,onehot_feat0"
)


def exposure(user, video, time, *, click=0, long=0, rand=0, tab=1):
    """Return one row of log_standard_*.csv; `time` is in ms from START."""
    day, minutes = time // DAY, time % DAY // MINUTE
    clock = minutes // 60 * 100 + minutes % 60
    return (
        f"{user},{video},{20220408 + day},{clock},{START + time},{click},0,0,0,0,0,{long},"
        f"{9000 * long},20000,0,0,0,{rand},{tab}"
    )


def make_log(seed=0, users=12, videos=40, days=5):
    """Return rows with a session of every user on every day; users click the tag they like."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        for day in range(days):
            time = day * DAY + int(random.integers(0, 20 * 60)) * MINUTE
            for video in random.permutation(videos)[: random.integers(8, 25)].tolist():
                time += int(random.integers(5_000, 90_000))
                click = int(random.random() < (0.8 if video % 2 == user % 2 else 0.2))
                rows.append(exposure(user, video, time, click=click, long=click * (video % 3 > 0)))
    return rows


def write(directory, log, videos=40, users=12):
    """Write the three files with the published columns."""
    rows = [
        f"{v},{v % 5},NORMAL,2022-04-{1 + v % 9:02},ShortImport,public,{1000.0 * (v + 1)},720,1280,"
        f'{v % 3},9.0,"{v % 2},{2 + v % 3}"'
        for v in range(videos)
    ]
    people = [f'{u},full_active,0,0,1,5,"(0,10]",0,0,0,0,107,61-180,{u % 2}' for u in range(users)]
    for name, header, lines in (
        ("log_standard_4_08.csv", LOG, log),
        ("video_features_basic_x.csv", VIDEOS, rows),
        ("user_features_x.csv", USERS, people),
    ):
        (directory / name).write_text("\n".join([header, *lines]) + "\n")


def prepare_files(directory, options=CLICKS, out="out"):
    prepare.prepare_kuairand(
        directory / out,
        sorted(directory.glob("log_standard_*.csv")),
        directory / "video_features_basic_x.csv",
        directory / "user_features_x.csv",
        options,
    )
    return directory / out


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kuairand")
    write(directory, make_log())
    return directory


@pytest.fixture(scope="module")
def out(directory):
    return prepare_files(directory)


@pytest.fixture(scope="module")
def rows(out):
    return pl.read_parquet(out / "impressions.parquet")


def cut_exposures(exposures, options):
    """Return the videos of each list that exposures (user, video, minute, tab) are cut into."""
    frame = pl.DataFrame(
        [(str(u), str(v), m * MINUTE, str(tab), "9", 0.0) for u, v, m, tab in exposures],
        schema=["user_id", "item_id", "time_ms", "tab", "hour", "label"],
        orient="row",
    )
    lists = kuairand.cut_lists(frame, options).group_by("request_id", maintain_order=True)
    return [group.sort("position")["item_id"].to_list() for _, group in lists]


def test_a_session_ends_at_a_gap_another_tab_or_another_user():
    exposures = [(1, 1, 0, 0), (1, 2, 30, 0), (1, 3, 61, 0), (1, 4, 62, 0), (1, 5, 63, 1)]
    exposures += [(1, 6, 64, 1), (2, 7, 65, 1), (2, 8, 66, 1)]
    lists = [["1", "2"], ["3", "4"], ["5", "6"], ["7", "8"]]
    assert cut_exposures(exposures, SessionOptions("is_click", 30, 10, 2)) == lists
    # A gap of 31 minutes ends no session at --gap 31, and one of 30 minutes does at 29.
    longer = cut_exposures(exposures, SessionOptions("is_click", 31, 10, 2))
    assert longer[0] == ["1", "2", "3", "4"]
    assert ["1", "2"] not in cut_exposures(exposures, SessionOptions("is_click", 29, 10, 2))


def test_a_session_is_cut_into_lists_and_a_short_remainder_is_dropped():
    exposures = [(1, video, video, 0) for video in range(8)]
    assert cut_exposures(exposures, SessionOptions("is_click", 30, 3, 3)) == [
        ["0", "1", "2"],
        ["3", "4", "5"],
    ]
    assert cut_exposures(exposures, SessionOptions("is_click", 30, 3, 2))[-1] == ["6", "7"]


def test_a_list_has_a_video_once_at_its_first_exposure():
    exposures = [(1, 5, 0, 0), (1, 6, 1, 0), (1, 5, 2, 0), (1, 7, 3, 0)]
    assert cut_exposures(exposures, SessionOptions("is_click", 30, 3, 2)) == [["5", "6", "7"]]


def test_every_list_is_in_order_of_exposure_within_bounds_and_of_one_split(rows):
    for _, group in rows.group_by("request_id", maintain_order=True):
        assert 5 <= len(group) <= 10
        assert group["position"].to_list() == list(range(len(group)))
        for name in ("user_id", "split", "timestamp", "tab", "hour"):
            assert group[name].n_unique() == 1


def test_splits_follow_each_other_in_time_without_overlap(directory, out, rows):
    log = pl.read_csv(directory / "log_standard_4_08.csv")
    exposures = log.select(pl.col("user_id", "video_id").cast(pl.String), "time_ms")
    joined = rows.join(exposures, left_on=["user_id", "item_id"], right_on=["user_id", "video_id"])
    latest = pl.col("timestamp") + DAY // 4
    of_list = joined.filter(pl.col("time_ms").is_between("timestamp", latest))
    span = {
        split: (group["time_ms"].min(), group["time_ms"].max())
        for (split,), group in of_list.group_by("split")
    }
    assert span["train"][1] < span["valid"][0] < span["valid"][1] < span["test"][0]
    counts = json.loads((out / "summary.json").read_text())
    lists = {split: split_counts["requests"] for split, split_counts in counts["splits"].items()}
    assert 0.07 < lists["test"] / sum(lists.values()) < 0.13
    assert 0.05 < lists["valid"] / sum(lists.values()) < 0.13
    assert counts["dropped"]["exposures at random"] == 0


def test_exposures_placed_at_random_are_dropped_and_counted(tmp_path):
    log = make_log()
    write(
        tmp_path,
        [
            line.replace(",0,1", ",1,1") if i % 7 == 0 else line
            for i, line in enumerate(log)
            if line.endswith(",0,1")
        ],
    )
    out = prepare_files(tmp_path)
    dropped = json.loads((out / "summary.json").read_text())["dropped"]
    assert dropped["exposures at random"] == -(-len(log) // 7)
    total = sum(dropped.values()) + len(pl.read_parquet(out / "impressions.parquet"))
    assert total == len(log)


def test_videos_and_exposures_have_their_features(out, rows):
    items = {row["item_id"]: row for row in pl.read_parquet(out / "items.parquet").to_dicts()}
    assert items["7"]["tags"] == ["1", "3"]
    assert items["7"]["duration"] == 8.0
    assert (items["7"]["author_id"], items["7"]["music_id"]) == ("2", "1")
    first = rows.filter(pl.col("item_id") == "7").row(0, named=True)
    day = datetime.datetime.fromtimestamp(first["timestamp"] / 1000, datetime.UTC)
    day += datetime.timedelta(hours=8)
    # The upload was on 8 April; age is counted in days until the exposure.
    assert first["upload_age"] == (day.date() - datetime.date(2022, 4, 8)).days
    assert first["hour"] == str(day.hour)
    users = pl.read_parquet(out / "users.parquet")
    assert users.filter(pl.col("user_id") == "3")["follow_user_num_range"].item() == "(0,10]"


def test_a_video_with_an_upload_after_its_exposure_has_age_zero(tmp_path):
    write(tmp_path, make_log())
    path = tmp_path / "video_features_basic_x.csv"
    path.write_text(path.read_text().replace("2022-04-0", "2022-05-0"))
    rows = pl.read_parquet(prepare_files(tmp_path) / "impressions.parquet")
    assert (rows["upload_age"] == 0).all()


def test_the_label_option_changes_only_labels_and_their_statistic(directory, rows):
    options = SessionOptions("long_view", 30, 10, 5)
    long = pl.read_parquet(prepare_files(directory, options, "long") / "impressions.parquet")
    assert long.drop("label", "like_rate").equals(rows.drop("label", "like_rate"))
    long_share, share = (frame.select(pl.col("label").mean()).item() for frame in (long, rows))
    assert 0 < long_share < share


def test_statistics_depend_on_train_lists_only(tmp_path, directory, out):
    lines = (directory / "log_standard_4_08.csv").read_text().splitlines()[1:]
    lists = pl.read_parquet(out / "impressions.parquet").filter(pl.col("split") != "train")
    begin = lists.select(pl.col("timestamp").min()).item()
    later = [line.split(",") for line in lines]
    for cells in later:
        if int(cells[4]) >= begin:
            cells[5] = str(1 - int(cells[5]))
    write(tmp_path, [",".join(cells) for cells in later])
    items = pl.read_parquet(prepare_files(tmp_path) / "items.parquet")
    assert items.equals(pl.read_parquet(out / "items.parquet"))


def test_reading_users_in_parts_gives_the_same_lists_as_all_at_once(tmp_path, directory):
    schema = load_schema(SCHEMAS / "kuairand.yaml")
    results = []
    for part in (100, 10_000):
        scratch = tmp_path / str(part)
        scratch.mkdir()
        source, _ = kuairand.read_kuairand(
            [directory / "log_standard_4_08.csv"],
            directory / "video_features_basic_x.csv",
            None,
            schema,
            CLICKS,
            scratch,
            part,
        )
        assert (len(list(scratch.glob("lists-*"))) > 1) == (part == 100)
        results.append((source.requests, source.rows.collect().sort("request_id", "position")))
    assert results[0][0].equals(results[1][0])
    assert results[0][1].equals(results[1][1])


def test_a_log_in_two_files_gives_the_same_lists_as_in_one(tmp_path, directory, rows):
    lines = make_log()
    write(tmp_path, lines[: len(lines) // 2])
    second = tmp_path / "log_standard_4_22.csv"
    second.write_text("\n".join([LOG, *lines[len(lines) // 2 :]]) + "\n")
    assert pl.read_parquet(prepare_files(tmp_path) / "impressions.parquet").equals(rows)


def test_a_model_trains_on_the_data_set(out, tmp_path):
    config = Config.load(ROOT / "model" / "configs" / "ranklens.yaml").smoke()
    state = train(config, out, tmp_path / "run")
    assert state.stage == "done"
    lists = Dataset(out).lists(["test"])
    assert np.isfinite(lists.numbers).all()
    filled = np.asarray(lists.tokens.any(axis=(0, 1)))
    assert len(filled) - filled.sum() == 1  # no video has a third tag


@pytest.mark.parametrize(
    ("file", "column", "value", "message"),
    [
        (
            "log_standard_4_08.csv",
            "is_click",
            "2",
            "row 1, column is_click: must be 0 or 1, got '2'",
        ),
        (
            "log_standard_4_08.csv",
            "is_click",
            "",
            "row 1, column is_click: must be 0 or 1, got null",
        ),
        ("log_standard_4_08.csv", "is_rand", "x", "row 1, column is_rand: must be 0 or 1, got 'x'"),
        (
            "log_standard_4_08.csv",
            "time_ms",
            "noon",
            "row 1, column time_ms: must be a whole number, got",
        ),
        (
            "log_standard_4_08.csv",
            "time_ms",
            "-5",
            "row 1, column time_ms: must be at least 0, got '-5'",
        ),
        (
            "log_standard_4_08.csv",
            "hourmin",
            "2460",
            "column hourmin: must be a time of day, HHMM, got",
        ),
        (
            "log_standard_4_08.csv",
            "hourmin",
            "975",
            "column hourmin: must be a time of day, HHMM, got",
        ),
        ("log_standard_4_08.csv", "date", "20220431", "column date: must be a date, YYYYMMDD, got"),
        (
            "log_standard_4_08.csv",
            "video_id",
            "",
            "column video_id: must be an id, neither null nor",
        ),
        (
            "video_features_basic_x.csv",
            "upload_dt",
            "soon",
            "column upload_dt: must be a date, YYYY-MM-DD",
        ),
        (
            "video_features_basic_x.csv",
            "video_duration",
            "-1",
            "video_duration: must be milliseconds, at",
        ),
        (
            "video_features_basic_x.csv",
            "video_id",
            "1",
            "row 2, column video_id: must occur once per file",
        ),
        (
            "user_features_x.csv",
            "user_id",
            "1",
            "row 2, column user_id: must occur once per file, got '1'",
        ),
    ],
)
def test_a_bad_value_is_reported(tmp_path, file, column, value, message):
    write(tmp_path, make_log())
    path = tmp_path / file
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[lines[0].split(",").index(column)] = value
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    with pytest.raises(DataError, match=re.escape(f"{file}, row ")) as caught:
        prepare_files(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("log_standard_4_08.csv", "is_click"),
        ("log_standard_4_08.csv", "tab"),
        ("video_features_basic_x.csv", "tag"),
        ("user_features_x.csv", "register_days_range"),
    ],
)
def test_a_missing_column_is_reported_with_the_columns_of_the_file(tmp_path, file, column):
    write(tmp_path, make_log())
    path = tmp_path / file
    path.write_text(path.read_text().replace(column, "other", 1))
    with pytest.raises(
        DataError, match=rf"{file}, column {column}: is missing; the \w+ has \w+_id,"
    ):
        prepare_files(tmp_path)


def test_options_that_give_no_lists_are_reported(tmp_path):
    with pytest.raises(
        DataError, match="--shortest: must be from 2 to --length, which is 4, got 5"
    ):
        SessionOptions("is_click", 30, 4, 5)
    with pytest.raises(DataError, match="--gap: must be at least 1 minute, got 0"):
        SessionOptions("is_click", 0, 10, 5)
    write(tmp_path, make_log(users=1, days=1))
    with pytest.raises(DataError, match="must give lists for train, valid and test; change --gap"):
        prepare_files(tmp_path)
