"""The measurement of long logs in miniature, and what its page computes."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from model.data.shards.exchange import TO
from model.study import dealing, scale_shards
from model.study.catalogue import TARGET, estimate_target, write_page
from model.study.commands import Scale
from model.study.long_log import write_long_log

REPORTS = Path(__file__).parents[3] / "docs" / "reports"


def test_every_stage_of_prepare_and_featurise_is_measured(tmp_path):
    command = Scale(
        shards=True, rows=(3000,), featurised=(3000,), workers=1, out=tmp_path / "out",
        cache=tmp_path / "cache",
    )  # fmt: skip
    command.execute()
    report = json.loads((tmp_path / "out" / "catalogue_shards.json").read_text())
    cases = {row["case"] for row in report["rows"]}
    assert cases == {"prepare, local", "deal only", "featurise"}
    stages = [row["stage"] for row in report["rows"] if row["case"] == "prepare, local"]
    assert len(stages) == len(set(stages))
    assert all(row["seconds"] >= 0 and row["peak_mb"] > 0 for row in report["rows"])
    assert {row["workers"] for row in report["rows"]} == {1}
    page = (tmp_path / "out" / "catalogue.md").read_text()
    row = next(row for row in report["rows"] if row["stage"] == "polars partitions")
    assert f"| deal only | 3,000 | 3,000 | polars partitions | {row['seconds']:.3g} |" in page
    assert list((tmp_path / "cache").iterdir()) == []


def test_data_sets_of_both_engines_are_compared_by_their_digest(tmp_path):
    pytest.importorskip("ray")
    command = Scale(
        shards=True, engine="both", rows=(3000,), workers=2, out=tmp_path / "out",
        cache=tmp_path / "cache",
    )  # fmt: skip
    command.execute()
    rows = json.loads((tmp_path / "out" / "catalogue_engines.json").read_text())["rows"]
    digests = {row["case"]: row["digest"] for row in rows if "digest" in row}
    assert digests.keys() == {"prepare, local", "prepare, ray"}
    assert len(set(digests.values())) == 1


def test_stages_of_prepare_follow_its_files_and_never_go_back(tmp_path):
    stage = scale_shards.stage_of_prepare(tmp_path / "out")
    reached = [stage()]
    for name in ("unfinished/deal", "unfinished/merge", "tmp/shards.json", "tmp/summary.json"):
        (tmp_path / f"out.{name}").mkdir(parents=True)
        reached.append(stage())
    shutil.rmtree(tmp_path / "out.tmp")
    reached.append(stage())
    assert reached == ["check rows", "deal", "merge", "tables", "fit", "fit"]


def test_a_digest_tells_data_sets_apart_by_names_and_bytes(tmp_path):
    for name, file, content in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(content)
    first, same, *others = (scale_shards.digest(tmp_path / name) for name in "abcd")
    assert first == same
    assert len({first, *others}) == 3


def row(rows, stage, seconds, main_mb, case="prepare, local"):
    sizes = {"log_mb": rows / 1e5, "data_mb": rows / 1e5, "unfinished_mb": rows / 1e5}
    return {
        "case": case, "rows": rows, "items": 9, "stage": stage, "seconds": seconds,
        "peak_mb": 3000, "main_mb": main_mb, "workers": 2, "load": 1.5, "commit": "0" * 40, **sizes,
    }  # fmt: skip


def test_the_page_extrapolates_the_growth_between_two_sizes(tmp_path):
    rows = [row(1_000_000, "merge", 10.0, 200), row(1_000_000, "fit", 7.0, 200),
            row(3_000_000, "merge", 14.0, 300), row(3_000_000, "fit", 7.0, 300)]  # fmt: skip
    estimate = estimate_target(rows, processors=9)
    merge, fit = estimate["stages"]
    assert merge["per_million"] == pytest.approx(2.0)
    assert merge["hours"] == pytest.approx(2.0 * TARGET / 1e6 / 3600.0)
    assert merge["cluster_hours"] == pytest.approx(merge["hours"] * 2 / 128)
    assert fit["hours"] == fit["cluster_hours"] == 0.0
    assert estimate["main_gb"] == pytest.approx(50 * TARGET / 1e9)
    assert estimate["disk_tb"]["log"] == pytest.approx(TARGET / 1e11)
    unrecorded = [{**one, "workers": None} for one in rows]
    assert estimate_target(unrecorded, processors=4)["workers"] == 4
    made = {"command": "python -m model scale --shards", "machine": "x86_64, 2 cores"}
    text = json.dumps({"made": made, "rows": rows})
    (tmp_path / "catalogue_shards.json").write_text(text)
    served = {"case": "this", "items": 5, "stage": "serve", "private_mb": 42}
    other = {"command": "x", "commits": {"this": "1" * 40}, "rows": [served]}
    (tmp_path / "catalogue_rows.json").write_text(json.dumps(other))
    write_page(tmp_path)
    page = (tmp_path / "catalogue.md").read_text()
    assert "| this | 5 | serve | 42 |" in page
    joined = json.loads((tmp_path / "catalogue.json").read_text())
    assert joined["rows"][0] == {"file": "catalogue_rows.json", **served}
    assert len(joined["rows"]) == 1 + len(rows)
    assert joined["estimate"]["stages"][0]["stage"] == "merge"
    assert "| merge | workers | 2.00 | 2.2 | 0.0 |" in page
    assert "- **Commit**: 1111111." in page
    assert "Memory of the command" in page
    (tmp_path / "catalogue_shards.json").write_text(json.dumps({"made": made, "rows": rows[:2]}))
    write_page(tmp_path)
    assert "Memory of the command" not in (tmp_path / "catalogue.md").read_text()


def test_a_page_without_long_logs_computes_nothing(tmp_path):
    (tmp_path / "catalogue_rows.json").write_text(json.dumps({"command": "x", "rows": []}))
    write_page(tmp_path)
    assert "on paper" not in (tmp_path / "catalogue.md").read_text()


def test_every_way_to_deal_keeps_all_rows_and_users_together(tmp_path):
    write_long_log(tmp_path, 2000, users=50, items=60)
    whole = pl.read_parquet(tmp_path / "log" / "*.parquet").sort("request_id", "position")
    for name in ("polars partitions", "polars sort"):
        out = tmp_path / name
        dealing.WAYS[name](tmp_path / "log", out, 4)
        rows = pl.read_parquet(out / "**" / "*.parquet", hive_partitioning=True)
        assert rows.group_by("user_id").agg(pl.col(TO).n_unique())[TO].max() == 1
        assert rows.select(whole.columns).sort("request_id", "position").equals(whole)


def test_the_report_keeps_the_bounds_of_memory_and_both_engines_write_the_same_bytes():
    rows = json.loads((REPORTS / "catalogue_shards.json").read_text())["rows"]
    prepared = {row["rows"]: row["peak_mb"] for row in rows if row["case"] == "prepare, local"}
    assert {10_000_000, 20_000_000, 40_000_000} <= prepared.keys()
    assert max(row["peak_mb"] for row in rows) < 6000
    engines = json.loads((REPORTS / "catalogue_engines.json").read_text())["rows"]
    digests = {row["case"]: row["digest"] for row in engines if "digest" in row}
    assert digests.keys() == {"prepare, local", "prepare, ray"}
    assert len(set(digests.values())) == 1


def test_the_page_is_that_of_its_files(tmp_path):
    for path in REPORTS.glob("catalogue_*.json"):
        shutil.copy(path, tmp_path)
    write_page(tmp_path)
    for name in ("catalogue.md", "catalogue.json"):
        assert (tmp_path / name).read_text() == (REPORTS / name).read_text()
