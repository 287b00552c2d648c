"""The benchmark in miniature, and its arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.bench.bench import BenchOptions, bench
from export.bench.report import Figures, page, ratios

ROOT = Path(__file__).parents[3]


def row(variant, batch, ms, budget=3, share=1.0):
    return {"variant": variant, "batch": batch, "candidates": 50, "slate_length": 10,
            "budget": budget, "reasoning_share": share, "ms_median": ms}  # fmt: skip


def test_ratios_are_those_of_the_medians():
    rows = [
        row("torch eager", 32, 30.0), row("static", 32, 10.0), row("gated", 32, 11.0),
        row("static", 32, 5.0, budget=0), row("gated", 32, 5.5, share=0.0),
        row("gated", 32, 8.0, share=0.5),
    ]  # fmt: skip
    (entry,) = ratios(Figures(rows))
    assert entry == {
        "batch": 32,
        "torch eager / static": 3.0,
        "torch eager / gated": 2.73,
        "gated, nobody reasons / S = 0": 1.1,
        "gated, all reason / static": 1.1,
        "cost of reasoning, half of the rows / all": 0.5,
    }
    assert ratios(Figures(rows[1:])) == []  # torch eager is missing
    native = [
        row("native", 32, 2.5), row("native", 32, 1.0, share=0.0), row("native", 32, 1.5, share=0.5)
    ]  # fmt: skip
    (with_native,) = ratios(Figures(rows + native))
    assert with_native == entry | {
        "torch eager / native": 12.0,
        "static / native": 4.0,
        "gated / native, nobody reasons": 5.5,
        "native, half of the rows / all": 0.6,
    }


def test_the_first_of_two_timings_of_a_size_counts():
    assert Figures([row("static", 1, 1.0), row("static", 1, 9.0)]).ms("static", 1) == 1.0


def test_the_benchmark_runs_in_miniature(tmp_path):
    command = [sys.executable, "-m", "export", "bench", "--smoke", "--out", str(tmp_path),
               "--data", str(tmp_path / "absent")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    payload = json.loads((tmp_path / "inference.json").read_text())
    assert {r["batch"] for r in payload["ratios"]} == {1, 2}
    fields = {"variant", "device", "threads", "batch", "candidates", "slate_length", "budget",
              "reasoning_share", "ms_median", "ms_p99"}  # fmt: skip
    assert all(fields <= r.keys() and r["ms_median"] <= r["ms_p99"] for r in payload["rows"])
    text = (tmp_path / "inference.md").read_text()
    variants = {r["variant"] for r in payload["rows"]}
    assert variants - {"native"} == {"torch eager", "gated", "static"}
    assert ("native" in variants) == ("native" not in payload["notes"])
    for ratio in payload["ratios"]:
        assert f"{ratio['torch eager / static']}" in text
    assert (tmp_path / "inference.png").stat().st_size > 1000


def test_export_without_a_command_requires_checkpoint_and_out():
    process = subprocess.run(
        [sys.executable, "-m", "export"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 2
    assert "Missing from python -m export:" in process.stderr
    assert "--checkpoint PATH" in process.stderr
    assert "--out PATH" in process.stderr


@pytest.mark.parametrize("name", ["inference.json"])
def test_the_committed_report_has_every_variant(name):
    rows = json.loads((ROOT / "docs" / "reports" / name).read_text())["rows"]
    assert {r["variant"] for r in rows} >= {"torch eager", "gated", "static", "static int8"}


def test_the_committed_page_is_rendered_from_the_committed_figures():
    report = json.loads((ROOT / "docs" / "reports" / "inference.json").read_text())
    assert page(report) == (ROOT / "docs" / "reports" / "inference.md").read_text()


def test_page_only_renders_the_figures_again_without_measuring(tmp_path):
    committed = ROOT / "docs" / "reports" / "inference.json"
    (tmp_path / "inference.json").write_text(committed.read_text())
    bench(BenchOptions(config=tmp_path / "absent", out=tmp_path, page_only=True))
    assert (tmp_path / "inference.md").read_text() == committed.with_suffix(".md").read_text()
    assert (tmp_path / "inference.json").read_text() == committed.read_text()
