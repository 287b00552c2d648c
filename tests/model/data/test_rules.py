"""Reports of bad rows, and the file that they are dropped into."""

from __future__ import annotations

import gzip
import io
import json

import polars as pl
import pytest

from model.data.commands import PrepareImpressions
from model.data.errors import DataError
from tests.support.logs import LOG, SCHEMA, prepare

GOOD = pl.read_csv(io.StringIO(LOG), infer_schema=False)


def bad_log():
    """Return a log of 30 lists of which rows break rules of one row, one list and one user."""
    frames = [
        GOOD.head(2).with_columns(request_id=pl.lit(f"g{n}"), timestamp=pl.lit(str(n + 3)))
        for n in range(28)
    ]
    log = pl.concat([GOOD, *frames]).with_row_index("n")

    def at(rows, column, value):
        return pl.when(pl.col("n").is_in(rows)).then(pl.lit(value)).otherwise(column).alias(column)

    return log.with_columns(
        at(range(10, 22), "position", "-1"),
        at([24], "label", "yes"),
        at([25], "price", "inf"),
        at([31], "item_id", "tea"),
        at([33], "hour", "10"),
    ).drop("n")


def test_every_broken_rule_is_counted_and_shown_with_up_to_ten_rows(shop):
    with pytest.raises(DataError) as caught:
        shop(bad_log().write_csv())
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("log.csv, row 11, column position: must be at least 0, got '-1'")
    text = [line.replace(first.split("log.csv")[0], "") for line in lines]
    assert text[0] == "5 rules are broken:"
    assert text[1] == "log.csv, column position: must be at least 0: 12 rows"
    assert text[2:12] == [f"  log.csv, row {row}: got '-1'" for row in range(11, 21)]
    assert text[12:] == [
        "log.csv, column label: must be a number: 1 row",
        "  log.csv, row 25: got 'yes'",
        "log.csv, column price: must be a finite number: 1 row",
        "  log.csv, row 26: got 'inf'",
        "log.csv, column item_id: must occur once per request: 1 row",
        "  log.csv, row 32: got 'tea'; request 'g13' has it in row 31 too",
        "log.csv, column hour: must be the same in all rows of a request: 1 row",
        "  log.csv, row 34: got '10'; request 'g14' began with '9'",
        "--skip-bad-rows FILE drops such rows into a file and goes on",
    ]


def test_skipped_rows_lie_in_the_file_with_their_reasons_and_the_others_in_the_data_set(
    shop, tmp_path
):
    log = bad_log()
    out = shop(log.write_csv(), options=["--skip-bad-rows", tmp_path / "bad.jsonl"])
    rows = pl.read_parquet(out / "impressions.parquet")
    dropped = [*range(10, 22), 24, 25, 31, 33]
    assert len(rows) == len(log) - len(dropped)
    kept = log.with_row_index("n").filter(~pl.col("n").is_in(dropped))
    clean = shop(kept.drop("n").write_csv())
    assert pl.read_parquet(clean / "impressions.parquet").equals(rows)
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [line["row"] - 1 for line in lines] == dropped
    assert {line["file"] for line in lines} == {str(tmp_path / "log.csv")}
    assert lines[0]["reason"] == "column position: must be at least 0"
    assert lines[0]["data"] == log.row(10, named=True)
    assert lines[-1]["reason"].startswith("column hour: must be the same in all rows of a request")


def test_a_run_that_skips_prints_how_many_rows_each_rule_drops(shop, tmp_path):
    path = tmp_path / "bad.jsonl"
    shop(bad_log().write_csv(), options=["--skip-bad-rows", path])
    out = tmp_path / "shop"
    inputs = ["--log", tmp_path / "log.csv", "--schema", tmp_path / "schema.yaml"]
    printed = prepare("impressions", *inputs, "--out", out, "--skip-bad-rows", path)
    assert f"{out} log: 12 rows dropped, column position: must be at least 0" in printed
    assert f"{out} dropped: 16 bad rows, written to {path}" in printed


def test_without_bad_rows_the_file_is_empty(shop, tmp_path):
    (tmp_path / "bad.jsonl").write_text("of yesterday\n")
    shop(options=["--skip-bad-rows", tmp_path / "bad.jsonl"])
    assert (tmp_path / "bad.jsonl").read_text() == ""


def test_bad_rows_of_tables_and_of_users_are_dropped_too(shop, tmp_path):
    schema = SCHEMA + "  - {name: age, of: user, kind: number, required: true}\n"
    log = LOG + "r3,bob,3,0,tea,1,,3,9\n"
    users = "user_id,age\nada,36\nada,37\neve,\n"
    options = ["--skip-bad-rows", tmp_path / "bad.jsonl"]
    out = shop(log, schema, users=users, options=options)
    assert pl.read_parquet(out / "users.parquet").rows() == [("ada", 36.0)]
    assert pl.read_parquet(out / "impressions.parquet")["user_id"].unique().to_list() == ["ada"]
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(line["file"].rpartition("/")[2], line["row"], line["reason"]) for line in lines] == [
        ("users.csv", 3, "column age: is required by the schema"),
        ("users.csv", 2, "column user_id: must occur once per file"),
        ("log.csv", 5, "column age: is required by the schema, but user 'bob' has none"),
    ]


def test_a_log_of_bad_rows_only_is_refused(shop, tmp_path):
    log = GOOD.with_columns(label=pl.lit("x")).write_csv()
    with pytest.raises(DataError, match="must have at least one row that breaks no rule"):
        shop(log, options=["--skip-bad-rows", tmp_path / "bad.jsonl"])
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("log.csv", "must not be a file that is read, got"),
        ("schema.yaml", "must not be a file that is read, got"),
        ("shop/bad.jsonl", "must lie outside of --out"),
        ("missing/bad.jsonl", "must be a file in an existing directory"),
    ],
)
def test_a_file_for_bad_rows_destroys_no_other_data(shop, tmp_path, path, rule):
    with pytest.raises(DataError, match=f"--skip-bad-rows: {rule}"):
        shop(options=["--skip-bad-rows", tmp_path / path])
    assert (tmp_path / "log.csv").read_text() == LOG


def test_rows_are_not_skipped_unless_asked():
    assert PrepareImpressions.__dataclass_fields__["skip_bad_rows"].default is None


def test_rows_that_cannot_be_read_are_reported_with_all_others_or_skipped(shop, tmp_path):
    lines = LOG.splitlines()
    lines[2:2] = ["r1,ada,1,2,hat,0,office,7,9,2,3", "r1,ada,1,3,cap,0,office,7,10.5,9"]
    lines[6] = lines[6].replace("mug,0", "mug,x")
    with pytest.raises(DataError) as caught:
        shop("\n".join(lines))
    first, *report = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    assert first == "log.csv, row 2: must have 9 fields, got 11"
    assert report[1:5] == [
        "log.csv: must have 9 fields: 2 rows",
        "  log.csv, row 2: got 11",
        "  log.csv, row 3: got 10",
        "log.csv, column label: must be a number: 1 row",
    ]
    clean = shop(LOG.replace("r2,ada,2,1,mug,0,,9,10\n", ""))
    expected = pl.read_parquet(clean / "impressions.parquet")
    out = shop("\n".join(lines), options=["--skip-bad-rows", tmp_path / "bad.jsonl"])
    assert pl.read_parquet(out / "impressions.parquet").equals(expected)
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(line["row"], line["reason"]) for line in bad] == [
        (2, "must have 9 fields"),
        (3, "must have 9 fields"),
        (6, "column label: must be a number"),
    ]
    assert bad[0]["data"] == {"fields": lines[2].split(",")}


def test_rows_behind_a_quote_without_its_end_are_not_lost_where_others_are_skipped(shop, tmp_path):
    lines = LOG.splitlines()
    lines[1] += ",1,2"
    lines[2] = f'"{lines[2]}'
    with pytest.raises(DataError, match="row 1: must have 9 fields, got 11"):
        shop("\n".join(lines), options=["--skip-bad-rows", tmp_path / "bad.jsonl"])


def test_lines_that_are_no_json_are_skipped_by_file_and_row(tmp_path):
    rows = [json.dumps(row) for row in GOOD.iter_rows(named=True)]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "1.jsonl").write_text("\n".join(rows[:2]))
    (tmp_path / "log" / "2.jsonl").write_text("\n".join(["[1]", "", rows[2], "{half", rows[3]]))
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    inputs = ["--log", tmp_path / "log", "--schema", tmp_path / "schema.yaml"]
    inputs += ["--out", tmp_path / "shop"]
    with pytest.raises(DataError, match=r"2\.jsonl, row 1: must be a JSON object, got \[1\]"):
        prepare("impressions", *inputs)
    prepare("impressions", *inputs, "--skip-bad-rows", tmp_path / "bad.jsonl")
    assert len(pl.read_parquet(tmp_path / "shop" / "impressions.parquet")) == 4
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(line["file"][-7:], line["row"], line["data"]) for line in bad] == [
        ("2.jsonl", 1, {"line": "[1]"}),
        ("2.jsonl", 3, {"line": "{half"}),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_another_dialect_that_cannot_be_read_are_skipped(tmp_path, packed):
    lines = GOOD.with_columns(price=pl.lit("1,5")).write_csv(separator=";").splitlines()
    lines.insert(1, "a;b;c;d;e;f;g;h;i;j;k")
    text = "\n".join(lines).encode("cp1252")
    name = "log.csv.gz" if packed else "log.csv"
    (tmp_path / name).write_bytes(gzip.compress(text) if packed else text)
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    inputs = ["--log", tmp_path / name, "--schema", tmp_path / "schema.yaml"]
    options = ["--delimiter", ";", "--decimal", ",", "--encoding", "cp1252"]
    options += ["--skip-bad-rows", tmp_path / "bad.jsonl", "--out", tmp_path / "shop"]
    prepare("impressions", *inputs, *options)
    rows = pl.read_parquet(tmp_path / "shop" / "impressions.parquet")
    assert rows["price"].to_list() == [1.5] * 4
    assert json.loads((tmp_path / "bad.jsonl").read_text())["row"] == 1


def test_a_hint_that_repeats_is_printed_once_per_column(shop):
    log = GOOD.with_columns(price=pl.lit("3,5"))
    with pytest.raises(DataError) as error:
        shop(log.write_csv())
    _, report = str(error.value).split("\n", 1)
    assert report.count("got '3,5'") == 4
    assert report.count("pass --decimal ,") == 1
