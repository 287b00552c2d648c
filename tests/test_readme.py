"""What the README shows is what happens."""

import json
import re
from pathlib import Path

import httpx

from service.app import create_app
from service.session import Session
from service.settings import Settings
from tests.service.conftest import BUNDLE, serving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_curl_answers_as_printed():
    body = re.search(r"/rerank -d '\n(.*?)'\n```", README, re.DOTALL)[1]
    printed = json.loads(re.search(r"```json\n(.*?)\n```", README, re.DOTALL)[1])
    with serving(create_app(Settings(), Session.load(BUNDLE))) as url:
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


def test_every_row_of_the_readmes_table_is_a_row_of_the_report():
    report = (ROOT / "docs" / "reports" / "quality.md").read_text(encoding="utf-8").splitlines()
    rows = re.findall(r"^\| .* \| 0\.\d{4} \[.*$", README, re.MULTILINE)
    assert len(rows) >= 6
    assert [row for row in rows if row not in report] == []


def test_the_readmes_figure_of_the_served_bundle_is_the_manifests():
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    mean, low, high = manifest["offline_metrics"]["ndcg@10"]
    assert f"prints NDCG@10 {mean:.4f} [{low:.4f}, {high:.4f}]" in README


def test_the_readmes_training_time_is_the_manifests():
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    assert f"trained for {manifest['training']['seconds']} s on one core" in README


def test_the_readmes_price_of_reasoning_is_the_reports():
    text = (ROOT / "docs" / "reports" / "quality.json").read_text(encoding="utf-8")
    (found,) = (
        c for c in json.loads(text)["comparisons"]
        if (c["split"], c["model"], c["against"], c["metric"])
        == ("warm", "eglr_s3", "host", "ndcg@10")
    )  # fmt: skip
    mean, low, high = (-found[name] for name in ("mean_difference", "high", "low"))
    assert f"{mean:.4f} [{low:.4f}, {high:.4f}] below its own plain host" in README
