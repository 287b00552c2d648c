"""Short run of the changes under load: a real service, a real store, real clients."""

import json
import shutil
from threading import Event

import pytest

from loadtest import reloads
from loadtest.cli import run_command
from loadtest.reloads import change_versions
from loadtest.server import serving
from tests.support.bundles import BUNDLE
from tests.support.stub_servers import unused_url


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reloads, "WARM_UP_S", 0.3)
        patch.setattr(reloads, "TURN_S", 0.5)
        return measured(tmp_path_factory)


def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("reloads") / "reloads.json"
    arguments = ["--changes", "5", "--pause", "0.1", "--clients", "4", "--seconds", "1"]
    before = {path.name: path.read_bytes() for path in BUNDLE.iterdir()}
    assert run_command("reloads", [*arguments, "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in BUNDLE.iterdir()} == before
    return json.loads(out.read_text())


def test_no_request_fails_while_five_versions_follow_each_other(report):
    assert (report["changes"], report["changes_refused"], report["failed"]) == (5, [], 0)
    for time in (report["before"], report["during"]):
        assert time["requests"] > 50
        assert 0 < time["p50_ms"] <= time["p99_ms"]


def test_the_report_says_how_it_was_measured(report):
    assert report["command"] == "python -m loadtest reloads --changes 5"
    assert (report["clients"], report["pause_s"]) == (4, 0.1)
    ratio = report["during"]["p99_ms"] / report["before"]["p99_ms"]
    assert report["p99_during_over_before"] == pytest.approx(ratio, abs=0.001)


def test_refused_changes_and_refused_connections_are_reported(tmp_path):
    with unused_url() as url:
        durations, errors = change_versions(url, "ranklens", "k" * 16, 3, 0.0, Event())
    assert (durations, len(errors)) == ([], 1)
    shutil.copytree(BUNDLE, tmp_path / "models" / "ranklens" / "1")
    (tmp_path / "keys").write_text("bench:" + "k" * 16)
    store = f"--models={tmp_path / 'models'}"
    with serving(BUNDLE, store, admin_keys_file=tmp_path / "keys") as server:
        durations, errors = change_versions(server.url, "ranklens", "k" * 16, 2, 0.0, Event())
    assert len(durations) == len(errors) == 2
    assert "the served versions stay" in errors[0]
