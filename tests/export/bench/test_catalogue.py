"""The bundle of a large catalogue in miniature, and the bounds of the committed report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.bench import catalogue_bundle
from export.bench.catalogue import body_of, memory_of, workers_of
from service.engine.features.candidates import CandidateList
from service.engine.session import Session
from tests.support.runs import SMOKE

REPORT = Path(__file__).parents[3] / "docs" / "reports" / "catalogue_rows.json"
WIDTH = 64  # of the served networks


def test_the_bundle_of_a_random_catalogue_ranks_its_items(tmp_path):
    catalogue_bundle.write(SMOKE, 300, tmp_path / "catalogue" / "1")
    session = Session.load(tmp_path / "catalogue" / "1")
    ids = json.loads(body_of(300, 12, seed=1))["candidates"]
    row = session.row(CandidateList(ids, context={"hour": "day"}))
    assert row.unknown == 0
    assert sorted(session.run([row])[0].indices.tolist())[0] >= 0
    assert session.groups("item_id", row) == ids
    assert session.manifest.items == 300


def test_memory_is_anonymous_or_shared_with_other_processes():
    before, _ = memory_of(os.getpid())
    held = np.ones(4_000_000)
    after, others = memory_of(os.getpid())
    assert after - before > 0.9 * held.nbytes
    assert others > 10e6


def test_a_process_without_workers_is_its_only_worker():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            assert workers_of(process.pid) == [process.pid]
        finally:
            process.communicate(b"\n", timeout=30)


@pytest.fixture(scope="module")
def figures():
    """The rows of the report by case and stage."""
    rows = json.loads(REPORT.read_text(encoding="utf-8"))["rows"]
    return {(row["case"], row["stage"]): row for row in rows}


def test_the_bundle_of_the_report_holds_two_rows_for_each_item_and_little_else(figures):
    row = figures["this", "write bundle"]
    rows_mb = 2 * row["items"] * WIDTH * 4 / 1e6
    features_mb = row["items"] * 4 * (2 + 2 + catalogue_bundle.LOOK) / 1e6
    ids_mb = row["items"] * len(catalogue_bundle.item_id(0)) / 1e6
    assert row["items"] == 1_000_000
    assert row["bundle_mb"] <= 1.2 * (rows_mb + features_mb + ids_mb) + 50
    assert figures["baseline", "write bundle"]["bundle_mb"] > row["bundle_mb"] + 200


def test_the_workers_of_the_report_share_the_table(figures):
    for workers in (1, 2):
        row = figures["this", f"serve, {workers} workers"]
        assert row["private_mb"] <= 200
        assert row["shared_mb"] > 300
        assert figures["baseline", f"serve, {workers} workers"]["private_mb"] > 900
    swap = figures["this", "swap version 1 for 2"]
    assert swap["private_mb"] < swap["private_mb_before"] + 100


def test_the_figures_of_the_documentation_are_those_of_the_report(figures):
    text = (REPORT.parents[1] / "inference.md").read_text(encoding="utf-8")
    for name, stage, field, digits in (
        ("bundle, MB", "write bundle", "bundle_mb", 0),
        ("anonymous memory of a worker, MB", "serve, 2 workers", "private_mb", 0),
        ("its mapped files, which workers share, MB", "serve, 2 workers", "shared_mb", 0),
        ("ready, one worker, s", "serve, 1 workers", "seconds", 1),
        ("ready, two workers, s", "serve, 2 workers", "seconds", 1),
        ("p50 of 20 candidates, ms", "rank 20 candidates", "p50_ms", 2),
        ("p50 of 500 candidates, ms", "rank 500 candidates", "p50_ms", 2),
    ):
        values = (figures[case, stage][field] for case in ("baseline", "this"))
        assert f"| {name} | {' | '.join(f'{v:.{digits}f}' for v in values)} |" in text


def test_workers_are_ready_in_five_seconds_in_the_report(figures):
    for workers in (1, 2):
        assert figures["this", f"serve, {workers} workers"]["seconds"] <= 5


def test_new_items_take_less_than_a_minute_in_the_report(figures):
    assert figures["this", "bring in 10,000 new and 10,000 changed items"]["seconds"] <= 60
