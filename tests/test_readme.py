"""What the README shows is what happens."""

import json
import re
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.session import Session
from service.settings import Settings
from tests.service.conftest import BUNDLE, serving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_curl_answers_as_printed():
    body = re.search(r"/rerank -d '\n(.*?)'\n```", README, re.DOTALL)[1]
    printed = json.loads(re.search(r"```json\n(.*?)\n```", README, re.DOTALL)[1])
    with serving(create_app(Settings(timeout_ms=60_000), Session.load(BUNDLE))) as url:
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


def test_every_row_of_the_readmes_table_is_a_row_of_the_report():
    rows = [
        line.strip("| ").split(" | ")
        for line in README.splitlines()
        if re.match(r"\| .*\| 0\.", line)
    ]
    assert len(rows) >= 6
    assert {row[0]: row[1:] for row in rows}.items() <= report_rows().items()


def test_the_readmes_figure_of_the_served_bundle_is_the_manifests():
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    mean, low, high = manifest["offline_metrics"]["ndcg@10"]
    assert f"prints NDCG@10 {mean:.4f} [{low:.4f}, {high:.4f}]" in README


def test_the_readmes_training_time_is_the_manifests():
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    assert f"trained for {manifest['training']['seconds']} s on one core" in README


@pytest.mark.parametrize(
    ("report", "model", "against", "text"),
    [
        ("quality", "transformer EGLR", "transformer host", "is {} to its plain host"),
        ("quality", "transformer EGLR", "LambdaMART", "and {} to LambdaMART"),
        ("world", "pointer eglr, every step", "pointer host", "adds {} expected clicks"),
        ("world", "pointer eglr", "pointer host", "behind the gate {}"),
    ],
)
def test_the_readmes_paired_differences_are_the_reports(report, model, against, text):
    path = ROOT / "docs" / "reports" / f"{report}.json"
    (found,) = (
        c for c in json.loads(path.read_text(encoding="utf-8"))["comparisons"]
        if (c["model"], c["against"]) == (model, against) and c["metric"] in ("ndcg@10", "worth")
        and c["split"] in ("warm", "test") and c.get("track", "stand-alone") == "stand-alone"
    )  # fmt: skip
    figures = "{mean_difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(**found)
    assert text.format(figures) in README.replace("\n", " ")
