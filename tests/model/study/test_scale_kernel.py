"""The measurement of a large kernel in miniature, and the bounds of the committed report."""

import json
from pathlib import Path

import polars as pl
import pytest

from model.study.commands import Scale
from model.study.long_log import write_long_log

REPORT = Path(__file__).parents[3] / "docs" / "reports" / "catalogue_kernel.json"


@pytest.mark.long
def test_a_kernel_is_measured_from_the_log_to_the_service(tmp_path):
    Scale(
        smoke=True, categories=30, rows=(2000,), out=tmp_path / "out", cache=tmp_path / "cache"
    ).execute()
    rows = json.loads((tmp_path / "out" / "catalogue_kernel.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["prepare", "train", "export", "serve"]
    assert {row["case"] for row in rows} == {"kernel over 30 categories"}
    assert all(row["seconds"] > 0 and row["peak_mb"] > 30 for row in rows)
    assert rows[-1]["peak_mb"] > rows[-1]["private_mb"] > 10
    assert "| serve |" in (tmp_path / "out" / "catalogue.md").read_text()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_long_log_has_as_many_genres_as_it_should(tmp_path):
    write_long_log(tmp_path, 100, users=5, items=4000, genres=900)
    genres = pl.read_parquet(tmp_path / "items.parquet")["genres"].explode()
    assert 880 < genres.n_unique() <= 900


def test_the_report_of_a_large_kernel_keeps_its_bound():
    rows = json.loads(REPORT.read_text())["rows"]
    assert {row["case"] for row in rows} == {"kernel over 20,000 categories"}
    assert {row["items"] for row in rows} == {1_000_000}
    assert max(row["peak_mb"] for row in rows) < 4000
