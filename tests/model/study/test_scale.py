"""The scale report in miniature."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_scale_page_has_the_figures_of_its_json(tmp_path):
    command = [sys.executable, "-m", "model", "scale", "--smoke", "--rows", "3000",
               "--out", str(tmp_path), "--cache", str(tmp_path / "cache")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (size,) = json.loads((tmp_path / "scale.json").read_text())
    assert size["rows"] == 3000
    assert set(size["train"]["result"]) == {"evaluator", "warm_start", "grpo"}
    page = (tmp_path / "scale.md").read_text()
    assert f"| {size['train']['result']['grpo']:,.0f} |" in page
    assert f"{size['featurise']['peak']:,.0f} MB" in page
    assert list((tmp_path / "cache").iterdir()) == []  # the logs were removed
