"""What the README shows is what happens."""

import json
import re
from pathlib import Path

import httpx
import pytest

from export.bench.report import Figures
from model.study.pages import format_interval
from service.engine.session import Session
from tests.support.bundles import BUNDLE
from tests.support.servers import fresh

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_curl_answers_as_printed():
    body = re.search(r"/rerank -d '\n(.*?)'\n```", README, re.DOTALL)[1]
    printed = json.loads(re.search(r"```json\n(.*?)\n```", README, re.DOTALL)[1])
    with fresh(Session.load(BUNDLE)) as url:
        answer = httpx.post(f"{url}/rerank", content=body).raise_for_status().json()
    assert answer.keys() == printed.keys()
    assert answer["latency_ms"].keys() == printed["latency_ms"].keys()
    for own in ("request_id", "latency_ms"):
        del answer[own], printed[own]
    for entry, expected in zip(answer["slate"], printed["slate"], strict=True):
        for name in ("logprob", "entropy", "entropy_after"):  # last digits are the processor's
            assert abs(entry.pop(name) - expected.pop(name)) < 1e-3
    answer["reasoning"].pop("entropy_threshold")
    printed["reasoning"].pop("entropy_threshold")
    assert answer == printed


def report_rows():
    """Of the first table, warm and stand-alone: NDCG@5, NDCG@10, MAP@10 and steps, as written."""
    report = (ROOT / "docs" / "reports" / "quality.md").read_text(encoding="utf-8")
    section = report.split("## RankLens, warm, stand-alone")[1].split("\n#")[0]
    lines = re.findall(r"^\| [^|]+ \| \d+ \| 0\..*$", section, re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in lines]
    return {row[0]: [*row[2:5], row[9]] for row in rows}


def test_every_row_of_the_readmes_table_is_a_row_of_the_report_or_the_served_bundle():
    rows = [
        line.strip("| ").split(" | ")
        for line in README.splitlines()
        if re.match(r"\| .*\| 0\.", line)
    ]
    found = {row[0]: row[1:] for row in rows}
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    metrics = manifest["offline_metrics"]
    served = [format_interval(metrics[name]) for name in ("ndcg@5", "ndcg@10", "map@10")]
    assert found.pop("**served bundle**, one seed") == [
        *served, f"{metrics['reasoning_steps'][0]:.2f}"
    ]  # fmt: skip
    assert len(found) >= 6
    assert found.items() <= report_rows().items()


def test_the_readmes_figure_of_the_served_bundle_is_the_manifests():
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    mean, low, high = manifest["offline_metrics"]["ndcg@10"]
    text = f"prints NDCG@10 {mean:.4f} [{low:.4f}, {high:.4f}]"
    assert text in README.replace("\n", " ")


def test_the_readmes_figure_of_the_served_configuration_is_the_reports():
    report = (ROOT / "docs" / "reports" / "quality.md").read_text(encoding="utf-8")
    lines = report.split("### Controls")[1].splitlines()
    row = next(line.strip("| ").split(" | ") for line in lines if line.startswith("| one head |"))
    assert f"(over {row[1]} seeds NDCG@10 {row[3]})" in README.replace("\n", " ")
    validated = report.split("## Which configuration to serve")[1].splitlines()
    line = next(line for line in validated if line.startswith(f"| {row[0]} |"))
    assert float(line.split("|")[3]) >= 0  # chosen for its cost, among those not below EGLR


def test_the_readmes_training_time_is_the_manifests():
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    assert f"trained for {manifest['training']['seconds']} s on one core" in README


@pytest.mark.parametrize(
    ("report", "split", "model", "against", "text"),
    [
        ("quality", "warm", "transformer EGLR", "transformer host", "is {} to its plain host"),
        ("quality", "warm", "transformer EGLR", "LambdaMART", "and {} to LambdaMART"),
        ("quality", "cold", "transformer EGLR", "LambdaMART", "(cold split) it is {} to Lambda"),
        ("world", "test", "pointer eglr, every step", "pointer host", "adds {} expected clicks"),
        ("world", "test", "pointer eglr", "pointer host", "behind the gate {}"),
        (
            "six_steps/world_law",
            "test",
            "transformer eglr",
            "transformer host",
            "the transformer gains {}",
        ),
        ("six_steps/world_law", "test", "gru eglr", "gru host", "the GRU {}. [What"),
        ("world_law", "test", "transformer eglr", "transformer host", "the transformer's {}"),
        ("world_law", "test", "gru eglr", "gru host", "the GRU's {}"),
    ],
)
def test_the_readmes_paired_differences_are_the_reports(report, split, model, against, text):
    path = ROOT / "docs" / "reports" / f"{report}.json"
    (found,) = (
        c for c in json.loads(path.read_text(encoding="utf-8"))["comparisons"]
        if (c["split"], c["model"], c["against"]) == (split, model, against)
        and c["metric"] in ("ndcg@10", "worth") and c.get("track", "stand-alone") == "stand-alone"
    )  # fmt: skip
    figures = format_interval(
        [found[name] for name in ("mean_difference", "low", "high")], signed=True
    )
    assert text.format(figures) in README.replace("\n", " ")


def test_the_ideas_in_the_notes_have_the_reports_figures():
    reports = ROOT / "docs" / "reports"
    found = {
        (c["model"], c["against"]): format_interval(
            [c[k] for k in ("mean_difference", "low", "high")], True
        )
        for c in json.loads((reports / "quality.json").read_text(encoding="utf-8"))["comparisons"]
        if (c["dataset"], c["split"], c["track"]) == ("ranklens", "warm", "stand-alone")
        and c["metric"] == "ndcg@10"
    }
    notes = (reports / "notes.md").read_text(encoding="utf-8")
    section = notes.split("## Ideas on RankLens")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if "[" in line]
    assert len(rows) >= 5
    for idea, to_eglr, to_host, _ in rows:
        assert to_eglr == found[idea, "transformer EGLR"]
        assert to_host == found[idea, "transformer host"]


def test_the_readmes_times_of_the_graph_are_the_reports():
    path = ROOT / "docs" / "reports" / "inference.json"
    payload = json.loads(path.read_text(encoding="utf-8"))
    figures = Figures(payload["rows"])
    (ratio,) = (r for r in payload["ratios"] if r["batch"] == 1)
    text = (
        f"{figures.ms('gated', 1):.2f} ms of one core with every reasoning step taken and "
        f"{figures.ms('gated', 1, share=0.0):.2f} ms with none, "
        f"{ratio['torch eager / gated']:.0f} times less than torch"
    )
    assert text in README.replace("\n", " ")
