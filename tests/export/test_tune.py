"""The profile: the choice among measured rows, and its use by the service."""

import json

import pytest

from export.__main__ import main
from export.bench.measure import cores
from export.tune import TuneError, TuneOptions, choose, tune
from service.settings import Settings, with_profile
from tests.support.bundles import BUNDLE


def measured(*rows):
    names = ("threads", "spinning", "batch", "ms_median", "ms_p99")
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("rows", "threads", "batch"),
    [
        ([(1, False, 1, 1.0, 2.0), (1, False, 8, 4.0, 6.0), (1, False, 32, 15.0, 20.0)], 1, 8),
        ([(1, False, 8, 4.0, 6.0), (2, False, 8, 3.8, 6.0)], 1, 8),  # a twentieth is not enough
        ([(1, False, 8, 4.0, 6.0), (2, False, 8, 2.0, 3.0)], 2, 8),
    ],
)
def test_the_most_requests_per_second_within_the_budget_win(rows, threads, batch):
    chosen = choose(measured(*rows), 10.0)
    assert (chosen["threads"], chosen["max_batch_size"]) == (threads, batch)


def test_a_profile_is_measured_and_the_service_loads_it_below_explicit_settings(tmp_path):
    path = tmp_path / "profile.json"
    options = TuneOptions(bundle=BUNDLE, out=path, candidates=12, budget_ms=50.0, seconds=0.01)
    profile = tune(options)
    assert json.loads(path.read_text()) == profile
    assert profile["cores"] == cores()
    assert {row["batch"] for row in profile["measured"]} >= {1, 32}
    settings = with_profile(Settings(profile=path))
    assert settings.max_batch_size == profile["max_batch_size"]
    assert settings.threads == profile["threads"]
    assert with_profile(Settings(profile=path, max_batch_size=5)).max_batch_size == 5
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"profile\.json: not a profile"):
        with_profile(Settings(profile=path))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("candidates", 0, "1 to 500, got 0"),
        ("candidates", 501, "1 to 500"),
        ("budget_ms", float("nan"), "above 0"),
        ("seconds", 0.0, "above 0"),
        ("budget_ms", 1e-6, "no p99 is below 1e-06 ms"),
    ],
)
def test_an_option_out_of_range_is_refused_and_writes_no_profile(tmp_path, option, value, message):
    values = {"candidates": 12, "budget_ms": 50.0, "seconds": 0.01, option: value}
    options = TuneOptions(bundle=BUNDLE, out=tmp_path / "profile.json", **values)
    with pytest.raises(TuneError, match=message):
        tune(options)
    assert not options.out.exists()


def test_a_repeated_option_is_refused_instead_of_replacing_the_first(tmp_path, capsys):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    assert main(["tune", "--out", str(first), "--out", str(second)]) == 2
    assert capsys.readouterr().err == "export: --out: must be passed once, got it 2 times\n"
    assert list(tmp_path.iterdir()) == []
