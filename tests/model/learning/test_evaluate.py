"""Evaluation over HTTP takes the model's answers and nothing else."""

import time

import pytest

from model.data.dataset import Impression
from model.learning.evaluate import through_http, through_session
from service.engine.features.candidates import CandidateList
from service.engine.rows import Timing
from service.engine.session import Session
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh


class Stalling(Session):
    """A session that stalls in its first runs for longer than the deadline."""

    def __init__(self, real, stalls):
        super().__init__(real.manifest, real.featuriser, real._generator, real._evaluator)
        self.stalls = stalls

    def run(self, rows):
        self.stalls -= 1
        if self.stalls >= 0:
            time.sleep(3)
        return super().run(rows)

    def warm_up(self, batch_sizes, list_size):
        return [Timing(b, volume, 1e-6 * volume * (1 + b)) for b in (0, 3) for volume in (1, 100)]


@pytest.fixture(scope="module")
def real():
    return Session.load(BUNDLE)


@pytest.fixture
def asked(real):
    ids = list(real.featuriser.items.ids)[:20]
    request = CandidateList.from_json({"candidates": [{"id": item} for item in ids]})
    return [Impression("list", "user", "test", request, (0.0,) * len(ids))]


def test_a_call_degraded_by_a_stall_is_repeated(real, asked):
    with fresh(Stalling(real, stalls=1), timeout_ms=2000, brief_run_ms=0) as url:
        assert through_http(url)(asked) == through_session(real)(asked)


def test_a_service_that_always_degrades_is_told_as_such(real, asked):
    with (
        fresh(Stalling(real, stalls=2), timeout_ms=100, brief_run_ms=0) as url,
        pytest.raises(OSError, match=r"degraded \(deadline\) 2 times"),
    ):
        through_http(url, attempts=2)(asked)
