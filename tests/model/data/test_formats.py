"""Logs in the formats of other projects."""

from __future__ import annotations

import gzip
import json
import re
import shlex

import polars as pl
import pytest
import yaml

from model.data.errors import DataError
from model.data.schemas import SCHEMAS
from tests.support.logs import DOC, EVENTS, prepare

SECTION = DOC[DOC.index("## Logs in other formats") : DOC.index("## A first stage")]
# Part of the documentation -> names of the files that its fences hold, before the command.
EXAMPLES = {
    "### Metarank": ("events.jsonl", "metarank.yaml"),
    "### Open Bandit": ("all.csv", "item_context.csv"),
    "### LibSVM and LETOR": ("train.txt", "test.txt"),
}


def fences(title):
    part = SECTION[SECTION.index(title) + len(title) :].split("\n### ")[0]
    return re.findall(r"```\w+\n(.*?)```", part, re.DOTALL)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Return a function that writes the files of an example and runs its command."""
    monkeypatch.chdir(tmp_path)

    def run(title, edit=None):
        names = EXAMPLES[title]
        for name, text in zip(names, fences(title), strict=False):
            (tmp_path / name).write_text(edit(name, text) if edit else text)
        command = fences(title)[len(names)]
        return prepare(*shlex.split(command.removeprefix("python -m model prepare ")))

    return run


@pytest.mark.parametrize("title", EXAMPLES)
def test_the_documented_example_prints_what_is_documented(example, title):
    assert example(title) == fences(title)[len(EXAMPLES[title]) + 1]


def test_metarank_events_become_lists_with_labels_of_their_types_and_features(example, tmp_path):
    example("### Metarank")
    rows = pl.read_parquet(tmp_path / "metarank" / "impressions.parquet")
    assert rows.select(
        "request_id", "item_id", "position", "label", "query", "relevancy"
    ).rows() == [
        ("r1", "tea", 0, 0.5, "hot", 2.0),
        ("r1", "ink", 1, 0.0, "hot", 0.5),
        ("r2", "ink", 0, 1.0, None, 1.0),
        ("r2", "tea", 1, 0.0, None, 0.5),
    ]


def test_blanks_around_the_ids_of_metarank_events_do_not_count(example, tmp_path):
    example("### Metarank")
    expected = pl.read_parquet(tmp_path / "metarank" / "impressions.parquet")

    def blank(name, text):
        for old, new in (
            ('"item": "tea"', '"item": "tea "'),
            ('{"id": "ink"', '{"id": " ink"'),
            ('"id": "r2"', '"id": " r2"'),
            ('"user": "ada", "items"', '"session": "ada", "user": "\\t", "items"'),
        ):
            text = text.replace(old, new) if name == "events.jsonl" else text
        return text

    example("### Metarank", blank)
    assert pl.read_parquet(tmp_path / "metarank" / "impressions.parquet").equals(expected)


RANKLENS_FIELDS = """
name: r
features:
  - {name: genres, of: item, kind: categories, width: 3}
  - {name: runtime, of: item, kind: number}
  - {name: director, of: item, kind: category}
  - {name: relevancy, of: candidate, kind: number}
"""


def test_ranklens_read_as_metarank_events_has_the_lists_of_its_own_reader(warm, ranklens, tmp_path):
    (tmp_path / "r.yaml").write_text(RANKLENS_FIELDS)
    wanted = re.compile(r'"event":"item"|"event":"ranking".*"id":"0|"ranking":"0')
    with gzip.open(EVENTS, "rt") as file, open(tmp_path / "r.jsonl", "w") as few:
        few.writelines(line for line in file if wanted.search(line))
    inputs = ("--log", tmp_path / "r.jsonl", "--schema", tmp_path / "r.yaml")
    options = ("--split", "last-list", "--out", tmp_path / "r")
    prepare("impressions", "--format", "metarank", *inputs, *options)
    columns = ["request_id", "position", "user_id", "timestamp", "item_id", "label"]
    rows = pl.read_parquet(tmp_path / "r" / "impressions.parquet").sort("request_id", "position")
    of_0 = pl.col("request_id").str.starts_with("0")
    rows, expected = rows.filter(of_0), warm.filter(of_0).sort("request_id", "position")
    assert rows["request_id"].n_unique() > 500
    assert rows.select(columns).equals(expected.select(columns))
    items = pl.read_parquet(tmp_path / "r" / "items.parquet").drop_nulls("genres")
    special = pl.read_parquet(ranklens[0] / "warm" / "items.parquet").drop_nulls("genres")
    both = items.join(special, on="item_id", suffix="_own")
    assert len(both) == len(items) > 2_000
    for name in ("genres", "runtime", "director"):
        assert both[name].equals(both[f"{name}_own"]), name


def change_event(**changes):
    """Return an edit that changes the third event of the example, a ranking."""

    def edit(name, text):
        if name != "events.jsonl":
            return text
        lines = text.splitlines()
        event = {**json.loads(lines[2]), **changes}
        lines[2] = json.dumps({key: value for key, value in event.items() if value is not None})
        return "\n".join(lines) + "\n"

    return edit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event": "view"}, "row 3, column event: must be one of item, user, ranking, interaction"),
        ({"items": []}, "row 3, column items: must hold at least one candidate, got []"),
        ({"items": "tea"}, "row 3, column items: must be a list of objects, got 'tea'"),
        ({"fields": {"query": "hot"}}, "row 3, column fields: must be a list of objects"),
        ({"timestamp": "noon"}, "row 3, column timestamp: must be milliseconds, or a time such"),
        ({"id": None}, "row 3, column id: must be a text in an event ranking, got null"),
        ({"items": [{"id": "tea"}] * 2}, "row 3, column item_id: must occur once per request"),
        (
            {"items": [{"id": "tea", "relevancy": "high"}]},
            "row 3, column relevancy: must be a finite number, got 'high'",
        ),
    ],
)
def test_a_broken_event_is_an_error_that_names_its_line(example, changes, message):
    with pytest.raises(DataError, match=re.escape(f"events.jsonl, {message}")):
        example("### Metarank", change_event(**changes))


@pytest.mark.parametrize("event", ["item", "user"])
def test_events_of_tables_need_times_that_can_be_read_or_else_are_remarked_on(example, event):
    def edit(time):
        at = f'"event": "{event}", "id": "e{1 + (event == "user")}", "timestamp": '
        return lambda name, text: text.replace(f'{at}"1599391467000"', f"{at}{time}")

    row = 1 + (event == "user")
    with pytest.raises(DataError, match=f"row {row}, column timestamp: must be milliseconds, or"):
        example("### Metarank", edit('"noon"'))
    printed = example("### Metarank", edit("null")).splitlines()
    remark = f"some events {event} have no timestamp, so the last value of each field always counts"
    assert f"metarank log: {remark}" in printed


def test_interactions_without_a_list_and_types_without_a_label_are_counted(example):
    more = (
        '{"event": "interaction", "type": "wish", "item": "ink", "ranking": "r1"}\n'
        '{"event": "interaction", "type": "click", "item": "ink"}\n'
        '{"event": "interaction", "type": "click", "item": "hat", "ranking": "r1"}\n'
    )

    def edit(name, text):
        return text + more * (name == "events.jsonl")

    printed = example("### Metarank", edit).splitlines()
    assert "metarank log: interactions that count nothing: wish" in printed
    lost = "metarank log: 2 of 4 interactions name no list that holds their item; they are left out"
    assert lost in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--interactions", "click"], "--interactions: must be TYPE=LABEL, got 'click'"),
        (["--interactions", "like=1"], "--interactions: must be a type in the log, which has cli"),
        (["--items", "events.jsonl"], "--items: must be absent, as the log of --format metarank"),
        (["--list-gap-ms", "5"], "--list-gap-ms: must be used with --format obp, got 'metarank'"),
        (["--log", "metarank.yaml"], "metarank.yaml: must be named .jsonl or .ndjson"),
    ],
)
def test_an_option_that_does_not_fit_the_format_is_refused(example, tmp_path, arguments, message):
    example("### Metarank")
    with pytest.raises(DataError, match=re.escape(message)):
        prepare("impressions", "--format", "metarank", "--log", "events.jsonl",
                "--schema", "metarank.yaml", "--out", "out", *arguments)  # fmt: skip


def test_open_bandit_rows_are_cut_into_lists_by_time_user_features_and_place(example, tmp_path):
    more = (
        "7,2019-11-30 10:00:00.000200+00:00,2,1,0,0.33,a,c,d,e,0.0,0.0,2.0\n"
        "8,2019-11-30 10:00:00.000300+00:00,2,2,1,0.33,a,c,d,e,0.0,0.0,2.0\n"
        "9,2019-11-30 10:00:00.000400+00:00,1,2,1,0.33,a,c,d,e,0.0,0.0,2.0\n"
        "10,2019-11-30 10:00:00.000500+00:00,1,2,1,0.33,b,c,d,e,0.0,0.0,2.0\n"
    )

    def shuffled(name, text):
        header, *lines = (text + more * (name == "all.csv")).splitlines()
        return "\n".join([header, *lines[::-1]]) + "\n"

    printed = example("### Open Bandit", lambda name, text: text + more * (name == "all.csv"))
    assert "obp log: lists by length: 2 of 1, 3 of 2, 1 of 3" in printed.splitlines()
    rows = pl.read_parquet(tmp_path / "obp" / "impressions.parquet")
    lists = rows.group_by("request_id", maintain_order=True).agg("item_id", "position", "affinity")
    assert [row[1:] for row in lists.rows()] == [
        (["2", "0"], [0, 1], [2.0, 0.0]),
        (["1"], [2], [0.0]),
        (["1", "2"], [0, 1], [0.0, 0.0]),
        (["1", "2", "0"], [0, 1, 2], [0.0, 2.0, 0.0]),
        (["2", "1"], [0, 1], [2.0, 0.0]),
        (["1"], [1], [0.0]),
    ]
    example("### Open Bandit", shuffled)
    again = pl.read_parquet(tmp_path / "obp" / "impressions.parquet")
    assert again.equals(rows)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            ",2,1,0,0.33",
            ",2,0,0,0.33",
            "row 1, column position: must be a whole number",
        ),
        (",2,1,0,0.33", ",2,1,2,0.33", "row 1, column click: must be 0 or 1, got '2'"),
        (",2,1,0,0.33", ",,1,0,0.33", "row 1, column item_id: must be an id, neither null nor bl"),
        (
            "2019-11-24 00:00:17.004101+00:00",
            "soon",
            "row 1, column timestamp: must be a time such",
        ),
        (",click,", ",clicked,", "column click: is missing; the log has , timestamp"),
    ],
)
def test_a_broken_row_of_open_bandit_is_an_error(example, old, new, message):
    with pytest.raises(DataError, match=re.escape(f"all.csv, {message}")):
        example("### Open Bandit", lambda _, text: text.replace(old, new, 1))


def libsvm(*paths, options=()):
    return prepare("impressions", "--format", "libsvm", "--log", *paths, "--out", "letor", *options)


def test_letor_lines_become_rows_with_zeros_for_missing_features(example, tmp_path):
    example("### LibSVM and LETOR")
    rows = pl.read_parquet(tmp_path / "letor" / "impressions.parquet")
    columns = ["request_id", "item_id", "position", "label", "split", "f1", "f2", "f3"]
    assert sorted(rows.select(columns).rows()) == [
        ("1", "1-1", 1, 0.0, "train", 0.0, 1.0, 0.0),
        ("1", "GX1", 0, 0.5, "train", 0.5, 0.0, 1.5),
        ("2", "2-0", 0, 0.25, "train", 1.0, 0.0, 0.0),
        ("2", "2-1", 1, 0.0, "train", 0.0, 0.0, 2.0),
        ("3", "3-0", 0, 0.0, "test", 0.5, 0.0, 0.0),
        ("3", "3-1", 1, 1.0, "test", 0.0, 1.0, 1.0),
    ]


def test_sizes_of_lists_in_a_query_file_stand_for_qids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{number % 3} 1:{number} 2:{number % 5}" for number in range(60)]
    (tmp_path / "rank.data").write_text("\n".join(lines) + "\n")
    (tmp_path / "rank.data.query").write_text("3\n" * 20)
    options = ["--valid-share", "0.2", "--test-share", "0.2"]
    printed = libsvm(".", options=options)
    head = "letor log: 20 lists have no user_id; each is a user of its own\n"
    assert printed.startswith(f"letor log: 1 file, 60 rows\n{head}letor train: ")
    columns = ["position", "label", "f1", "f2"]
    rows = pl.read_parquet(tmp_path / "letor" / "impressions.parquet")
    (tmp_path / "rank.data.query").unlink()
    with_qid = (line.replace(" ", f" qid:{n // 3} ", 1) for n, line in enumerate(lines))
    (tmp_path / "rank.data").unlink()
    content = ("# comment\n\n" + "\n".join(with_qid)).encode()
    (tmp_path / "rank.data.gz").write_bytes(gzip.compress(content))
    libsvm("rank.data.gz", options=options)
    again = pl.read_parquet(tmp_path / "letor" / "impressions.parquet")
    assert again.sort("f1").select(columns).equals(rows.sort("f1").select(columns))
    assert len(rows) == 60
    assert set(rows["split"]) == {"train", "valid", "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 qid:1 1:2\n1 qid:1 1=2\n", "rank.txt, row 2: must be LABEL [qid:LIST] INDEX:VALUE"),
        ("1 qid:1 1:2\n\n# c\nx qid:1 1:2\n", "rank.txt, row 2, column label: must be a number"),
        (
            "-1 qid:1 1:2\n",
            "rank.txt, row 1, column label: must be a number of at least 0",
        ),
        ("1 qid:1 1:x\n", "rank.txt, row 1: must be INDEX:VALUE, a whole number and a finite one"),
        ("1 qid:1 a:1\n", "rank.txt, row 1: must be INDEX:VALUE, a whole number and a finite one"),
        ("1 qid:1 1:nan\n", "rank.txt, row 1: must be INDEX:VALUE"),
        ("1 qid:1 1:1 1:2\n", "rank.txt, row 1: must hold each index once, got '1:1'"),
        ("1 1:2\n", "rank.txt, row 1: must have qid:LIST, as no file rank.txt.query has sizes"),
        (
            "1 qid:1 1:2\n1 qid:2 1:2\n1 qid:1 1:2\n",
            "rank.txt, row 3, column qid: must have consecutive lines in one file; it",
        ),
        (
            "1 qid:1 4000000000:1\n",
            "rank.txt: must have at most 10,000 indices, or a --schema",
        ),
        ("# nothing\n", "rank.txt: must have at least one row, got an empty file"),
    ],
)
def test_a_broken_line_of_letor_is_an_error(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rank.txt").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        libsvm("rank.txt")


def test_a_schema_chooses_some_of_many_indices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{n % 2} qid:{n // 2} 2:{n} 4000000000:{n + 1}" for n in range(40)]
    (tmp_path / "rank.txt").write_text("\n".join(lines))
    features = "[{name: f4000000000, of: candidate, kind: number}]"
    (tmp_path / "schema.yaml").write_text(f"name: letor\nfeatures: {features}\n")
    libsvm("rank.txt", options=("--schema", "schema.yaml"))
    rows = pl.read_parquet(tmp_path / "letor" / "impressions.parquet")
    assert sorted(rows["f4000000000"]) == [n + 1.0 for n in range(40)]
    assert "f2" not in rows.columns


def test_sizes_that_do_not_fit_the_lines_are_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rank.txt").write_text("1 1:2\n1 1:3\n")
    for sizes, message in (
        ("3\n", "rank.txt.query: must hold sizes whose sum is the 2 lines of rank.txt, got 3"),
        ("2\nx\n", "rank.txt.query, row 2: must be a whole number above 0, got 'x'"),
    ):
        (tmp_path / "rank.txt.query").write_text(sizes)
        with pytest.raises(DataError, match=re.escape(message)):
            libsvm("rank.txt")


def test_tables_and_events_need_a_schema(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.jsonl").write_text("{}\n")
    for form in ("table", "metarank"):
        with pytest.raises(DataError, match=f"--schema: must name a file with --format {form}"):
            prepare("impressions", "--format", form, "--log", "log.jsonl", "--out", "out")


def test_the_schema_of_open_bandit_names_the_features_of_its_files():
    schema = yaml.safe_load((SCHEMAS / "obp.yaml").read_text())
    names = {feature["name"] for feature in schema["features"]}
    expected = {f"{owner}_feature_{number}" for owner in ("item", "user") for number in range(4)}
    assert names == expected | {"like_rate", "affinity"}
