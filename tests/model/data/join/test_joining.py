"""Decisions and events of a journal joined into a log of impressions."""

import json
import os

import polars as pl
import pytest

from model.__main__ import main
from model.data.errors import DataError
from model.data.join import joining
from model.data.join.joining import join
from model.data.join.options import JoinOptions
from service.journal.frames import FrameEncoder
from service.journal.records import Bundle, ErasureRecord, pack
from tests.support.journals import decision, event, write_segment
from tests.support.logs import SCHEMA, digest_tree, prepare

HOUR = 3_600_000
START = 1_700_000_000_000 - 1_700_000_000_000 % HOUR
ITEMS = ["a", "b", "c", "d"]


@pytest.fixture
def journal(tmp_path):
    """An empty directory."""
    path = tmp_path / "journal"
    path.mkdir()
    return path


@pytest.fixture
def schema(tmp_path):
    """The file of the shop's schema, by which lists end at the last action."""
    path = tmp_path / "schema.yaml"
    path.write_text(f"{SCHEMA}passed_over: {{rule: above}}\n")
    return path


def made(number, at=0, request=None, slate=(2, 0, 3, 1), **more):
    """Return a decision about four items, `at` ms after the start."""
    prices = [{"price": 1.5 + place} for place in range(4)]
    fields = {"features": prices, "context": {"hour": "9"}, "ids": ITEMS, **more}
    request = f"r{number}" if request is None else request
    return decision(number, at=START + at, request=request, slate=list(slate), **fields)


def on(number, item, request="r1", at=1000, **more):
    """Return a like of an item, `at` ms after the start."""
    return event(
        number, **{"at": START + at, "request": request, "item": item, "label": 1.0, **more}
    )


def joined(journal, schema, out, hours=3, **changes):
    """Join hours of a journal with parts of an hour, and return the counts that are not 0."""
    options = {"wait": "1h", "part": "1h", "model": None, **changes}
    counts = join(journal, out, JoinOptions.read(schema, **options), START + hours * HOUR)
    return {name: count for name, count in counts.items() if count}


def labels(out):
    """Return the labels of a log by request of the decision, in the order of positions."""
    log = pl.read_parquet(out / "impressions" / "*.parquet").sort("timestamp", "position")
    pairs: dict[str, dict[str, float]] = {}
    for request, item, label in log.select("request_id", "item_id", "label").iter_rows():
        pairs.setdefault(request, {})[item] = label
    return pairs


def test_a_list_gives_rows_up_to_the_last_item_that_the_user_acted_on(journal, schema, tmp_path):
    write_segment(journal, [made(1), made(2, 50), on(1, "d")])
    counts = joined(journal, schema, tmp_path / "out")
    assert labels(tmp_path / "out") == {"d1": {"c": 0.0, "a": 0.0, "d": 1.0}}
    assert counts == {
        "lists": 2, "lists: with feedback": 1, "events: joined": 1, "impressions": 3,
    }  # fmt: skip
    log = pl.read_parquet(tmp_path / "out" / "impressions" / "*.parquet")
    assert log["price"].to_list() == [3.5, 1.5, 4.5]
    assert log["hour"].to_list() == ["9"] * 3
    assert (log["position"].to_list(), log["rank"].to_list()) == ([0, 1, 2], [2, 0, 3])
    # The user came back 50 ms later, before the declared half hour.
    assert log["settled_at"].to_list() == [START + 50] * 3


def test_every_event_is_counted_once_and_none_is_guessed(journal, schema, tmp_path):
    records = [
        made(1), made(2, request="twice"), made(3, request="twice"), made(4, user=None),
        on(1, "c"), on(11, "c", at=2000, event_id="e1"),
        on(2, "c", outcome="duplicate", event_id="e1"), on(3, "a", request=None),
        on(4, "a", request="elsewhere"), on(5, "a", at=HOUR + 1), on(6, "a", request="twice"),
        on(7, "a", user="u2"), on(8, "z"), on(9, "a", position=3), on(10, "a", request="r4"),
    ]  # fmt: skip
    write_segment(journal, records)
    counts = joined(journal, schema, tmp_path / "out", hours=4)
    assert counts == {
        "lists": 4, "lists: with feedback": 2, "impressions": 4,
        "events: joined": 4, "events: duplicate": 2, "events: without a request": 1,
        "events: orphaned": 1, "events: late": 1, "events: ambiguous": 1,
        "events: of another user": 1, "events: item not in the slate": 1,
        "events: another position": 1,
    }  # fmt: skip
    assert labels(tmp_path / "out") == {"d1": {"c": 1.0, "a": 1.0}, "d4": {"c": 0.0, "a": 1.0}}
    of_outcomes = ["item not in the slate", "another position"]
    events = sum(n for name, n in counts.items() if name.startswith("events: "))
    assert events - sum(counts[f"events: {name}"] for name in of_outcomes) == 11


def test_a_repetition_counts_if_the_first_record_of_its_event_was_lost(journal, schema, tmp_path):
    again = {"event_id": "e1", "outcome": "duplicate"}
    write_segment(journal, [made(1), on(1, "c", **again), on(2, "c", at=2000, **again)])
    counts = joined(journal, schema, tmp_path / "out", hours=4)
    assert (counts["events: joined"], counts["events: duplicate"]) == (1, 1)
    assert labels(tmp_path / "out") == {"d1": {"c": 1.0}}


def test_an_event_may_arrive_before_its_list_by_the_difference_of_two_clocks_alone(
    journal, schema, tmp_path
):
    before = HOUR + 10 - 60_000
    records = [made(0, request="r0"), made(1, HOUR + 10)]
    write_segment(journal, [*records, on(1, "c", at=before), on(2, "a", at=before - 1)])
    counts = joined(journal, schema, tmp_path / "out", hours=4)
    assert (counts["events: joined"], counts["events: orphaned"]) == (1, 1)
    assert labels(tmp_path / "out") == {"d1": {"c": 1.0}}


def test_a_repetition_in_another_part_is_a_duplicate(journal, schema, tmp_path):
    first, later = HOUR - 20_000, HOUR + 20_000
    likes = [on(1, "c", at=first), on(2, "c", at=later, event_id="e1"), on(3, "a", at=later)]
    write_segment(journal, [made(1, HOUR - 30_000), *likes])
    counts = joined(journal, schema, tmp_path / "out", hours=4)
    assert (counts["events: joined"], counts["events: duplicate"]) == (2, 1)
    assert labels(tmp_path / "out") == {"d1": {"c": 1.0, "a": 1.0}}


def test_a_stated_display_replaces_the_rule(journal, schema, tmp_path):
    records = [made(1), on(1, "a", displayed=["a", "d", "elsewhere"])]
    write_segment(journal, records)
    joined(journal, schema, tmp_path / "out")
    assert labels(tmp_path / "out") == {"d1": {"a": 1.0, "d": 0.0}}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", {"d1": {"c": 0.0, "a": 1.0, "d": 0.0, "b": 0.0}, "d2": dict.fromkeys("cadb", 0.0)}),
        ("rule: above, ", {"d1": {"c": 0.0, "a": 1.0}}),
        ("rule: stated, ", {"d1": {"a": 1.0}}),
    ],
)
def test_the_rule_of_the_schema_says_what_counts_as_passed_over(
    journal, schema, tmp_path, rule, expected
):
    schema.write_text(f"{SCHEMA}passed_over: {{{rule}settle: 20m}}\n")
    write_segment(journal, [made(1), made(2, HOUR - 1), on(1, "a")])
    joined(journal, schema, tmp_path / "out", hours=4)
    assert labels(tmp_path / "out") == expected


def test_an_action_without_a_label_reaches_down_the_slate_and_has_no_row(journal, schema, tmp_path):
    write_segment(
        journal, [made(1), on(1, "a", type="see", label=None), on(2, "b", type="pass", label=0.0)]
    )
    joined(journal, schema, tmp_path / "out")
    assert labels(tmp_path / "out") == {"d1": {"c": 0.0, "b": 0.0}}


@pytest.mark.parametrize(
    ("rule", "displayed", "expected"),
    [
        ("all", [], {"c": 0.0, "a": 0.0, "d": 1.0, "b": 0.0}),
        ("above", [], {"c": 0.0, "a": 0.0, "d": 1.0}),
        ("above", ["a", "d"], {"a": 0.0, "d": 1.0}),
        ("stated", [], {"d": 1.0}),
    ],
)
def test_an_item_whose_events_have_no_label_follows_the_rule(
    journal, schema, tmp_path, rule, displayed, expected
):
    schema.write_text(f"{SCHEMA}passed_over: {{rule: {rule}}}\n")
    see = on(1, "a", type="see", label=None, displayed=displayed)
    write_segment(journal, [made(1), see, on(2, "d")])
    counts = joined(journal, schema, tmp_path / "out")
    assert labels(tmp_path / "out") == {"d1": expected}
    assert (counts["events: joined"], counts["events: without a label"]) == (2, 1)


def test_labels_have_the_range_of_the_schema(journal, schema, tmp_path):
    schema.write_text(f"{SCHEMA}label: {{range: [1, 5]}}\npassed_over: {{rule: above}}\n")
    write_segment(journal, [made(1), on(1, "a", label=0.5), on(2, "a", label=0.25)])
    joined(journal, schema, tmp_path / "out")
    assert labels(tmp_path / "out") == {"d1": {"c": 1.0, "a": 3.0}}


def days(journal):
    """Write three hours of decisions, whose events arrive in the same hour or the next."""
    parts, minute = [], HOUR // 60
    for hour in range(3):
        at = hour * HOUR + 40 * minute
        records = [made(f"{hour}{n}", at + n, user=f"u{n}") for n in range(4)]
        records += [
            on(f"{hour}{n}", ITEMS[n], f"r{hour}{n}", at + (n % 2) * 30 * minute + 9)
            for n in range(4)
        ]
        parts.append(write_segment(journal, records))
        os.utime(parts[-1], (START / 1e3 + at / 1e3 + 3600,) * 2)
    return parts


def test_runs_one_after_another_give_the_bytes_of_one_run_and_redo_no_part(
    journal, schema, tmp_path
):
    segments = days(journal)
    whole, steps = tmp_path / "whole", tmp_path / "steps"
    expected = joined(journal, schema, whole, 6)
    first = joined(journal, schema, steps, 2.5)
    assert (first["lists"], first["lists: unsettled"]) == (4, 4)
    before = {path: path.stat().st_mtime_ns for path in steps.glob("*/*.parquet")}
    assert before
    segments[0].unlink()  # its part is done
    second = joined(journal, schema, steps, 6)
    assert second == expected
    assert {path: path.stat().st_mtime_ns for path in before} == before
    of_steps, of_whole = digest_tree(steps), digest_tree(whole)
    states = [json.loads((out / "join.json").read_text()) for out in (steps, whole)]
    assert states[0]["parts"] == states[1]["parts"]
    assert {**of_steps, "join.json": ""} == {**of_whole, "join.json": ""}
    assert expected["events: joined"] == 12
    assert joined(journal, schema, steps, 6) == expected


@pytest.mark.parametrize(
    "step", ["read_part", "match", "label_rows", "_write", "_counts", "forget"]
)
def test_a_join_that_dies_goes_on_where_it_was(journal, schema, tmp_path, monkeypatch, step):
    days(journal)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = joined(journal, schema, whole, 6)
    calls, before = [], getattr(joining, step)

    def die(*arguments):
        calls.append(step)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return before(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(joining, step, die)
        with pytest.raises(KeyboardInterrupt):
            joined(journal, schema, broken, 6)
    assert len(json.loads((broken / "join.json").read_text())["parts"]) == 1
    assert joined(journal, schema, broken, 6) == expected
    assert digest_tree(broken) == digest_tree(whole)


def test_records_flushed_after_their_part_was_joined_are_counted_once(journal, schema, tmp_path):
    name, out = "records: flushed after their part", tmp_path / "out"
    grown = write_segment(journal, [made(1), on(1, "c")])
    assert name not in joined(journal, schema, out)
    write_segment(journal, [made(2, 500), on(2, "a", at=900), made(3, 5 * HOUR)])
    assert joined(journal, schema, out, hours=6)[name] == 2
    frame = FrameEncoder().encode([pack(on(3, "d", at=950)), pack(made(4, 5 * HOUR + 1))])
    grown.write_bytes(grown.read_bytes() + frame)
    for _ in range(2):
        counts = joined(journal, schema, out, hours=8)
        assert (counts[name], counts["lists"], counts["events: joined"]) == (3, 3, 1)
    assert labels(out) == {"d1": {"c": 1.0}}


def test_records_of_users_that_were_deleted_later_are_left_out(journal, schema, tmp_path):
    erasure = ErasureRecord("e", START + 2000, "u1")
    again = made(3, 3000, user="u1")
    records = [made(1), on(1, "c", user="u1"), made(2, user="u2"), on(2, "c", "r2"), erasure, again]
    write_segment(journal, [*records, on(3, "c", "r3", 4000)])
    joined(journal, schema, tmp_path / "out")
    assert set(labels(tmp_path / "out")) == {"d2", "d3"}
    requests = pl.read_parquet(tmp_path / "out" / "requests" / "*.parquet")
    assert set(requests["request_id"]) == {"d2", "d3"}


def test_a_deletion_reaches_the_parts_that_are_done(journal, schema, tmp_path, capsys):
    days(journal)
    out = tmp_path / "out"
    joined(journal, schema, out, 6)
    assert set(pl.read_parquet(out / "requests" / "*.parquet")["user_id"]) == {
        "u0", "u1", "u2", "u3",
    }  # fmt: skip
    write_segment(journal, [ErasureRecord("e", START + 5 * HOUR, "u1")])
    joined(journal, schema, out, 6)
    arguments = ["--journal", journal, "--schema", schema, "--out", out, "--forget", "u2"]
    more = ["--wait", "1h", "--part", "1h", "--until", START + 6 * HOUR]
    assert main(["join", *map(str, [*arguments, *more])]) == 0
    assert "lists removed: 3" in capsys.readouterr().out
    for table in ("requests", "impressions", "candidates"):
        assert set(pl.read_parquet(out / table / "*.parquet")["user_id"]) == {"u0", "u3"}
    assert not any(b"u1" in path.read_bytes() for path in out.glob("*/*.parquet"))


def test_lists_of_another_model_or_schema_are_counted_and_left_out(journal, schema, tmp_path):
    strange = [{"price": "cheap"}] * 4
    records = [made(1), made(2, features=strange), made(3, bundle=Bundle("other", "1", "cd"))]
    records += [on(n, "c", f"r{n}") for n in (1, 2, 3)]
    write_segment(journal, records)
    with pytest.raises(DataError, match=r"^--model: must name the model .* got 'm, other'"):
        joined(journal, schema, tmp_path / "none")
    counts = joined(journal, schema, tmp_path / "out", model="m")
    assert (counts["lists: of another model"], counts["lists: of another schema"]) == (1, 1)
    assert counts["events: on a list left out"] == 2
    assert set(labels(tmp_path / "out")) == {"d1"}


def test_prepare_reads_the_log(journal, schema, tmp_path):
    schema.write_text(SCHEMA + "  - {name: age, of: user, kind: number}\n")
    for hour in range(12):
        at = hour * HOUR
        more = {"user": f"u{hour % 3}", "user_features": {"age": 20 + hour}}
        stated = [{"genres": ["drink"], "price": 1.0}] * 4
        records = [made(hour, at, features=stated, **more), on(hour, "d", f"r{hour}", at + 5)]
        write_segment(journal, records)
    joined(journal, schema, tmp_path / "out", hours=14)
    output = prepare(
        "impressions", "--log", tmp_path / "out" / "impressions", "--users",
        tmp_path / "out" / "users", "--schema", schema, "--out", tmp_path / "data",
    )  # fmt: skip
    assert "train: " in output
    rows = pl.read_parquet(tmp_path / "data" / "impressions.parquet")
    assert len(rows) == 48
    assert rows.group_by("item_id").agg(pl.col("label").mean()).sort("item_id").rows() == [
        ("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wait", "20m"], "--wait: must be at least passed_over.settle of the schema, 30m, got"),
        (["--part", "0h"], "--part: must be a duration above 0 such as 90m, 6h or 3d, got '0h'"),
        (["--until", "soon"], "--until: must be a time such as 2026-01-05T12:00 or ms since 1970"),
        (["--journal", "missing"], "--journal: must be a directory, got 'missing'"),
        ([], "journal: must hold a record, got none"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    journal, schema, tmp_path, capsys, arguments, message
):
    stated = ["--schema", str(schema), "--out", str(tmp_path / "out"), *arguments]
    if "--journal" not in arguments:
        stated += ["--journal", str(journal)]
    assert main(["join", *stated]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("name", "owner"), [("rank", "candidate"), ("policy", "user")])
def test_a_feature_with_the_name_of_a_column_of_the_join_is_refused(schema, name, owner):
    schema.write_text(f"{SCHEMA}  - {{name: {name}, of: {owner}, kind: category}}\n")
    with pytest.raises(
        DataError, match=rf"features.{name}.name: must not be a column that a join adds"
    ):
        JoinOptions.read(schema, wait="1h", part="1h", model=None)


def test_a_directory_of_other_options_is_refused(journal, schema, tmp_path):
    days(journal)
    joined(journal, schema, tmp_path / "out")
    with pytest.raises(DataError, match=r"was joined with other options.*: wait_ms$"):
        joined(journal, schema, tmp_path / "out", wait="2h")
