"""The measurement of training with identifiers, in miniature."""

import json

from model.study import identifiers
from model.study.commands import Throughput


def test_the_report_has_a_row_for_each_update_law_and_start(tmp_path, monkeypatch):
    def in_process(task, *arguments):
        return {"result": task(*arguments), "seconds": 1.0, "peak": 2.0}

    monkeypatch.setattr(identifiers, "in_process", in_process)
    monkeypatch.setattr(identifiers, "VALID", 8)
    cache = tmp_path / "cache"
    Throughput(items=(100,), rounds=1, smoke=True, out=tmp_path, cache=cache).execute()
    report = json.loads((tmp_path / "catalogue_training.json").read_text())
    rows = report["rows"]
    assert {"case", "items", "rows", "stage", "seconds", "peak_mb"} <= set.intersection(
        *(set(row) for row in rows)
    )
    speed = [(row["case"], row["stage"]) for row in rows if row["case"].startswith("speed")]
    stages = ("evaluator", "warm_start", "grpo")
    assert speed == [(f"speed, {case}", stage) for case in ("dense", "rows") for stage in stages]
    laws = {row["case"]: row["loss"] for row in rows if row["case"].startswith("law")}
    assert len(set(laws.values())) == len(identifiers.LAWS)
    starts = [row for row in rows if row["case"].startswith("start")]
    assert len({row["loss_before"] for row in starts}) == len(identifiers.STARTS)
    assert all(row["loss"] <= row["loss_before"] + 1e-6 for row in starts)
    assert not cache.exists()
