"""The profile: what is chosen of what was measured, and that the service takes it."""

import argparse
import json

import pytest

from export.measure import cores
from export.tune import choose, tune
from service.settings import Settings, tuned
from tests.service.conftest import BUNDLE


def measured(*rows):
    names = ("threads", "spinning", "batch", "ms_median", "ms_p99")
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("rows", "threads", "batch"),
    [
        ([(1, False, 1, 1.0, 2.0), (1, False, 8, 4.0, 6.0), (1, False, 32, 15.0, 20.0)], 1, 8),
        ([(1, False, 8, 4.0, 6.0), (2, False, 8, 3.8, 6.0)], 1, 8),  # a twentieth is no reason
        ([(1, False, 8, 4.0, 6.0), (2, False, 8, 2.0, 3.0)], 2, 8),
        ([(1, False, 1, 30.0, 40.0), (1, False, 8, 90.0, 99.0)], 1, 1),  # nothing keeps 10 ms
    ],
)
def test_the_most_requests_per_second_within_the_budget_win(rows, threads, batch):
    chosen = choose(measured(*rows), 10.0)
    assert (chosen["threads"], chosen["max_batch_size"]) == (threads, batch)


def test_a_profile_is_measured_and_loaded_by_the_service_beneath_what_is_given(tmp_path):
    path = tmp_path / "profile.json"
    arguments = argparse.Namespace(
        bundle=BUNDLE, out=path, candidates=12, budget_ms=50.0, seconds=0.01
    )
    profile = tune(arguments)
    assert json.loads(path.read_text()) == profile
    assert profile["cores"] == cores()
    assert {row["batch"] for row in profile["measured"]} >= {1, 32}
    settings = tuned(Settings(profile=path))
    assert settings.max_batch_size == profile["max_batch_size"]
    assert settings.threads == profile["threads"]
    assert tuned(Settings(profile=path, max_batch_size=5)).max_batch_size == 5
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"profile\.json: no profile of this service"):
        tuned(Settings(profile=path))
