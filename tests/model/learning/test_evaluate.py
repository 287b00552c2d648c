"""Evaluation of a bundle, in this process and over HTTP."""

import shutil
import subprocess
import sys
import time

import polars as pl
import pytest

from model.data.dataset import Dataset, Impression
from model.data.errors import DataError
from model.learning.evaluate import evaluate, http_ranker, session_ranker
from service.engine.features.candidates import CandidateList
from service.engine.rows import Timing
from service.engine.session import Session
from tests.support.bundles import BUNDLE
from tests.support.runs import ROOT
from tests.support.servers import fresh


class Stalling(Session):
    """A session that stalls in its first runs for longer than the deadline."""

    def __init__(self, real, stalls, stall_s):
        self.__dict__ |= real.__dict__
        self.stalls, self.stall_s = stalls, stall_s

    def run(self, rows):
        self.stalls -= 1
        if self.stalls >= 0:
            time.sleep(self.stall_s)
        return super().run(rows)

    def warm_up(self, batch_sizes, list_size):
        return [Timing(b, volume, 1e-6 * volume * (1 + b)) for b in (0, 3) for volume in (1, 100)]


@pytest.fixture(scope="module")
def real():
    return Session.load(BUNDLE)


@pytest.fixture
def impressions(real):
    ids = list(real.featuriser.items.ids)[:20]
    request = CandidateList.from_json({"candidates": [{"id": item} for item in ids]})
    return [Impression("list", "user", "test", request, (0.0,) * len(ids))]


def test_a_degraded_response_is_requested_again(real, impressions):
    with fresh(Stalling(real, stalls=1, stall_s=2.5), timeout_ms=2000, brief_run_ms=0) as url:
        assert http_ranker(url)(impressions) == session_ranker(real)(impressions)


def test_a_service_that_always_degrades_is_an_error(real, impressions):
    with (
        fresh(Stalling(real, stalls=2, stall_s=0.4), timeout_ms=100, brief_run_ms=0) as url,
        pytest.raises(OSError, match=r"degraded \(deadline\) 2 times"),
    ):
        http_ranker(url, attempts=2)(impressions)


def test_a_split_without_a_rankable_list_is_refused(warm_ranklens, tmp_path):
    copy = shutil.copytree(warm_ranklens, tmp_path / "warm")
    rows = pl.read_parquet(copy / "impressions.parquet")
    rows.filter(pl.col("split") != "valid").write_parquet(copy / "impressions.parquet")
    session = Session.load(BUNDLE)
    with pytest.raises(DataError, match="at least one valid list with a positive and a negative"):
        evaluate(session, copy, "valid")


def test_data_that_was_not_prepared_is_refused_in_one_line(tmp_path):
    command = ["evaluate", "--bundle", "bundles/ranklens/1", "--data", str(tmp_path / "no")]
    done = subprocess.run(
        [sys.executable, "-m", "model", *command],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("evaluate: ")
    assert "no: holds no data set; write one with `python -m model prepare`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_evaluate_measures_lists_with_a_positive_and_a_negative_only(smoke_bundle, warm_ranklens):
    directory, _ = smoke_bundle
    result = evaluate(Session.load(directory), warm_ranklens)
    rows = Dataset(warm_ranklens).lists(["test"])
    assert result["lists"] == len(rows.rankable()) < len(rows)
