"""Logs in several files, formats and dialects."""

from __future__ import annotations

import gzip
import os
import random
import re

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from model.data.dialect import Dialect
from model.data.errors import DataError
from model.data.files import find_files
from model.data.log_splits import SplitOptions
from model.data.prepare import prepare_impressions
from tests.support.dialects import write_rows
from tests.support.logs import LOG, SCHEMA, digest_tree, prepare

TWIN_SCHEMA = """
name: twin
history: {limit: 8, kernels: [tags], rate: like_rate}
features:
  - {name: like_rate, of: item, kind: statistic, prior_strength: 10, relative: true}
  - {name: tags, of: item, kind: categories, width: 2}
  - {name: price, of: candidate, kind: number}
  - {name: brand, of: candidate, kind: category}
  - {name: hour, of: context, kind: category}
"""
DIALECTS = (
    Dialect(),
    Dialect(";", "utf-8", ",", "|"),
    Dialect(";", "cp1252", ",", "/"),
    Dialect("\t", "utf-16", ".", "/"),
    Dialect("|", "latin-1", ",", "/"),
)
TABLES = ("impressions.parquet", "items.parquet", "users.parquet")
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["ada", "bob", "zoë", None]),
        st.integers(0, 3),  # hours, so that times repeat
        st.sampled_from([9, 10, None]),
        st.lists(
            st.tuples(
                st.integers(0, 1),
                st.lists(st.sampled_from(["hot", "new", "süß"]), max_size=2),
                st.none() | st.integers(0, 4000).map(lambda number: number / 8),
                st.none() | st.sampled_from(["ö", "a,b", 'say "x"', "c;d", "7"]),
            ),
            min_size=1,
            max_size=4,
        ),
    ),
    min_size=3,
    max_size=8,
)


def rows_of(requests):
    # A user of one list is train, and a log needs a train list with a positive and a negative.
    requests = [*requests, ("eve", 0, None, [(1, [], None, None), (0, [], None, None)])]
    return [
        {
            "request_id": f"r{number}",
            "user_id": user,
            "timestamp": 1_700_000_000_000 + hours * 3_600_000,
            "position": position,
            "item_id": str(100 + (7 * number + position) % 9),
            "label": label,
            "tags": tags or None,
            "price": price,
            "brand": brand,
            "hour": hour,
        }
        for number, (user, hours, hour, candidates) in enumerate(requests)
        for position, (label, tags, price, brand) in enumerate(candidates)
    ]


def tables(out):
    return {name: digest for name, digest in digest_tree(out).items() if name in TABLES}


# Shrinking a seed does not make a failure smaller.
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(REQUESTS, st.integers(0, 2**32), st.sampled_from(DIALECTS), st.integers(1, 5))
def test_a_log_in_any_files_gives_the_same_bytes_as_its_clean_twin(
    tmp_path_factory, requests, seed, dialect, count
):
    directory = tmp_path_factory.mktemp("twin")
    rows, rng = rows_of(requests), random.Random(seed)
    (directory / "schema.yaml").write_text(TWIN_SCHEMA)
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(directory / "clean.parquet")
    schema, splitting = directory / "schema.yaml", SplitOptions("last-list")
    clean = directory / "clean.parquet"
    prepare_impressions(clean, schema, directory / "a", splitting=splitting)
    rng.shuffle(rows)
    parts = directory / "parts"
    parts.mkdir()
    for number in range(count):
        if part := rows[number::count]:
            write_rows(parts, f"{rng.random()}-{number}", part, dialect, rng)
    prepare_impressions(parts, schema, directory / "b", splitting=splitting, dialect=dialect)
    assert tables(directory / "a") == tables(directory / "b")
    assert len(tables(directory / "a")) == len(TABLES)


def lines_of(text):
    """Return the rows of the log of tests.support.logs as a frame of text."""
    return pl.read_csv(text.encode(), infer_schema=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Enter an empty directory that has a schema."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    return tmp_path


def run(*arguments, log=("log.csv",)):
    return prepare("impressions", "--log", *log, "--schema", "schema.yaml", "--out", "out",
                   *arguments)  # fmt: skip


HEAD, R1, R2 = LOG.splitlines()[0], LOG.splitlines()[1:3], LOG.splitlines()[3:5]


def text(*rows):
    return "\n".join([HEAD, *rows]) + "\n"


def test_paths_globs_and_directories_are_read_in_natural_order_and_counted(place):
    for name, rows in (("day-10.csv", R2[1:]), ("day-2.csv", R2[:1]), ("more/a.CSV.GZ", R1)):
        path = place / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = text(*rows).encode()
        path.write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
    for name in ("README.md", "_SUCCESS", "more/.a.csv.crc", "_temporary/b.csv"):
        (place / "logs" / name).parent.mkdir(exist_ok=True)
        (place / "logs" / name).write_text("no table")
    printed = run(log=["logs"]).splitlines()
    assert printed[:2] == [
        "out log: 3 files, 4 rows",
        "out log: 4 not read, no tables: logs/README.md, logs/_SUCCESS, logs/_temporary/b.csv "
        "and 1 more",
    ]
    whole = tables(place / "out")
    assert run("--log", "logs/day-10.csv", log=["logs/more/a.CSV.GZ", "logs/day-2.csv"]).startswith(
        "out log: 3 files, 4 rows\n"
    )
    assert tables(place / "out") == whole
    assert run(log=["logs/**/*.[cC]*"]).startswith("out log: 3 files, 4 rows\n")
    assert tables(place / "out") == whole
    assert [path.name for path in find_files(["logs/*.csv"]).paths] == ["day-2.csv", "day-10.csv"]


def test_a_file_whose_name_looks_like_a_glob_is_read(place):
    for name in ("log[1].csv", "log*.jsonl"):
        frame = pl.read_csv(LOG.encode())
        frame.write_csv(name) if name.endswith("csv") else frame.write_ndjson(name)
        assert run(log=[name]).startswith("out log: 1 file, 4 rows\n")


def test_partitions_become_columns_unless_the_file_has_them(place):
    frame = lines_of(LOG)
    for request, hour in (("r1", "9"), ("r2", "__HIVE_DEFAULT_PARTITION__")):
        path = place / "log" / f"request_id=x{request}" / f"hour={hour}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        frame.filter(request_id=request).drop("hour").write_parquet(path)
    run(log=["log"])
    rows = pl.read_parquet(place / "out" / "impressions.parquet")
    assert rows["hour"].to_list() == ["9", "9", None, None]
    assert rows["request_id"].to_list() == ["r1", "r1", "r2", "r2"]


def test_without_timestamps_paths_stand_for_time_and_the_output_says_so(place):
    log = lines_of(LOG).drop("timestamp")
    log.filter(request_id="r1").write_csv("log-10.csv")
    log.filter(request_id="r2").write_csv("log-9.csv")
    printed = run(log=["log-10.csv", "log-9.csv"])
    line = "out log: without timestamps, time runs by path from log-9.csv to log-10.csv"
    assert line in printed.splitlines()
    rows = pl.read_parquet(place / "out" / "impressions.parquet")
    assert rows["request_id"].to_list() == ["r2", "r2", "r1", "r1"]


def test_a_file_without_an_optional_column_has_nulls_and_is_named(place):
    lines_of(LOG).filter(request_id="r1").write_csv("a.csv")
    lines_of(LOG).filter(request_id="r2").drop("price").write_ndjson("b.jsonl")
    (place / "c.csv").write_text(HEAD + "\n")
    (place / "d.csv").write_text("")
    printed = run(log=["*.csv", "b.jsonl"]).splitlines()
    assert printed[:3] == [
        "out log: 4 files, 4 rows",
        "out log: 2 without rows: c.csv, d.csv",
        "out log: column price is null where 1 of 2 files lack it: b.jsonl",
    ]
    rows = pl.read_parquet(place / "out" / "impressions.parquet")
    assert rows["price"].to_list() == [3.5, 7.0, None, None]


@pytest.mark.parametrize("column", ["item_id", "timestamp", "price"])
def test_a_file_without_a_column_that_must_be_there_is_an_error(place, column):
    required = SCHEMA.replace("name: price,", "name: price, required: true,")
    (place / "schema.yaml").write_text(required)
    (place / "a.csv").write_text(text(*R1))
    lines_of(text(*R2)).drop(column).write_parquet("b.parquet")
    with pytest.raises(DataError, match=f"b.parquet, column {column}: is missing; a.csv has it"):
        run(log=["a.csv", "b.parquet"])


def test_an_error_names_the_file_and_the_row_within_it(place):
    (place / "a.csv").write_text(text(*R1))
    (place / "b.csv").write_text(text(R2[0], R2[1].replace(",1,mug,", ",-1,mug,")))
    with pytest.raises(DataError, match=r"^b\.csv, row 2, column position: must be at least 0"):
        run(log=["b.csv", "a.csv"])
    pl.DataFrame({"item_id": ["a", "b"]}).write_parquet("items.parquet")
    (place / "items.jsonl").write_text('{"item_id": "c"}\n{"item_id": "b"}\n')
    (place / "log.csv").write_text(LOG)
    with pytest.raises(DataError, match=r"row 1, column item_id: must occur once|row 2, column"):
        run("--items", "items.jsonl", "items.parquet")


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (["none.csv"], "none.csv: no such file or directory"),
        (["*.csv.gz"], "*.csv.gz: must match at least one file, got none"),
        (["empty"], "empty: must hold a table; must be named .parquet"),
        (["foreign"], "it holds foreign/notes.txt"),
        (["notes.txt"], "notes.txt: must be named .parquet, .pq, .csv, .tsv, .jsonl or .ndjson"),
        (["log.csv", "./log.csv"], "log.csv: must be named once, got it twice"),
        (["log.csv", "link.csv"], "must be named once, got it twice; it is the same file as"),
        ([], "--log: must name at least one file"),
    ],
)
def test_a_path_that_names_no_table_or_one_twice_is_an_error(place, log, message):
    (place / "log.csv").write_text(LOG)
    (place / "notes.txt").write_text("x")
    (place / "empty").mkdir()
    (place / "foreign").mkdir()
    (place / "foreign" / "notes.txt").write_text("x")
    os.symlink("log.csv", "link.csv")
    with pytest.raises(DataError, match=re.escape(message)):
        run(log=log)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", LOG.replace(",", ";"), "pass --delimiter ';'"),
        ("log.csv", LOG.replace(",", "\t"), r"pass --delimiter '\t'"),
        ("log.tsv", LOG, "and a .tsv must have tabs; name it .csv"),
        ("log.csv", LOG.encode("utf-16"), "log.csv: looks like UTF-16; pass --encoding utf-16"),
        ("log.csv", LOG.encode("utf-16-le"), "log.csv: looks like UTF-16"),
        (
            "log.csv",
            LOG.replace("office,", "b\xfcro,").encode("latin-1"),
            "log.csv, row 2: is not UTF-8 (byte 0xfc); pass --encoding, such as cp1252 or latin-1",
        ),
        (
            "log.csv",
            LOG.replace("3.5", '"3,5"'),
            "number; for decimal commas pass --decimal ,, got '3,5'",
        ),
        ("log.jsonl", b'{"a": 1}\n\n{"b": \n', "log.jsonl, row 2: must be JSON, got "),
        ("log.jsonl", b'{"a": 1}\n[1]\n', "log.jsonl, row 2: must be a JSON object, got [1]"),
        ("log.jsonl", b'{"a": "\xfc"}\n', "log.jsonl, row 1: is not UTF-8 (byte 0xfc)"),
        (
            "log.jsonl",
            b'{"user_id": "a"}\n{"user_id": ["a"]}\n',
            "log.jsonl, row 2, column user_id: must hold one value, got '[\"a\"]'",
        ),
        ("log.csv.gz", gzip.compress(LOG.encode())[:-9], "log.csv.gz: cannot be read"),
        ("log.parquet", LOG, "log.parquet: cannot be read"),
        ("log.csv", LOG.replace("\nr2", ",x,y\nr2", 1), "row 2: must have 9 fields, got 11"),
    ],
)
def test_a_file_in_another_dialect_or_broken_is_an_error_with_advice(place, name, content, message):
    (place / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=re.escape(message)):
        run(log=[name])


def test_a_row_with_too_many_fields_is_an_error_where_few_columns_are_read(place):
    rows = "item_id,genres,note\na,x,n\nb,y,o,p\n"
    (place / "log.csv").write_text(LOG)
    (place / "items.csv").write_text(rows)
    with pytest.raises(DataError, match=r"items\.csv, row 2: must have 3 fields, got 4"):
        run("--items", "items.csv")


def test_a_file_that_is_utf_8_is_read_as_such_whatever_the_encoding(place):
    log = LOG.replace("hot", "süß")
    (place / "a.csv").write_text(text(*log.splitlines()[1:3]), encoding="utf-8")
    (place / "b.csv").write_text(text(*R2).replace("gift", "für"), encoding="cp1252")
    printed = run("--encoding", "cp1252", log=["a.csv", "b.csv"])
    assert "out log: a.csv is UTF-8 and was read as such, not as cp1252" in printed.splitlines()
    rows = pl.read_parquet(place / "out" / "impressions.parquet")
    assert [rows["genres"][0].to_list()[1], rows["genres"][2].to_list()[1]] == ["süß", "für"]


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--delimiter", "::", "must be one ASCII character"),
        ("--delimiter", "|", "must differ from --delimiter"),
        ("--encoding", "utf-99", "must be the name of an encoding"),
        ("--encoding", "base64", "must be the name of an encoding"),
        ("--decimal", "'", "must be . or ,"),
    ],
)
def test_a_dialect_that_cannot_be_used_is_refused(place, option, value, rule):
    (place / "log.csv").write_text(LOG)
    with pytest.raises(DataError, match=re.escape(rule)):
        run(option, value)


def test_files_of_equal_names_have_digests_by_path(place):
    for day, rows in (("1", R1), ("2", R2)):
        (place / f"day={day}").mkdir()
        (place / f"day={day}" / "part.csv").write_text(text(*rows))
    run(log=["day=*"])
    summary = (place / "out" / "summary.json").read_text()
    assert all(f'"day={day}/part.csv": "' in summary for day in (1, 2))
    assert '"log": "day=*"' in summary


def test_a_column_that_has_the_name_of_a_helper_is_an_error(place):
    pl.DataFrame({"__row": [1], "request_id": ["r1"]}).write_parquet(place / "log.parquet")
    with pytest.raises(
        DataError, match=r"log\.parquet, column __row: is a name that prepare needs"
    ):
        run(log=["log.parquet"])
