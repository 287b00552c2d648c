"""The report on logs of any size."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_scale_report_is_written_from_what_was_measured(tmp_path):
    command = [sys.executable, "-m", "model", "scale", "--smoke", "--rows", "3000",
               "--out", str(tmp_path), "--cache", str(tmp_path / "cache")]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (found,) = json.loads((tmp_path / "scale.json").read_text())
    assert found["rows"] == 3000
    assert set(found["train"]["result"]) == {"evaluator", "warm_start", "grpo"}
    shown = (tmp_path / "scale.md").read_text()
    assert f"| {found['train']['result']['grpo']:,.0f} |" in shown
    assert f"{found['featurise']['peak']:,.0f} MB" in shown
    assert list((tmp_path / "cache").iterdir()) == []  # the logs are gone
