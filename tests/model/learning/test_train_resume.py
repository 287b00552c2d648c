"""Training is reproducible, and resumes to the weights of an uninterrupted run."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import torch

from model.learning import checkpoint
from model.learning.train import train
from tests.support.runs import CONFIG, ROOT, SMOKE, tensors_of


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    smoke_run, warm_ranklens, tmp_path
):
    train(SMOKE, warm_ranklens, tmp_path / "same")
    train(dataclasses.replace(SMOKE, seed=1), warm_ranklens, tmp_path / "other")
    first, same = tensors_of(smoke_run), tensors_of(tmp_path / "same")
    assert first.keys() == same.keys()
    assert all(torch.equal(first[name], same[name]) for name in first)
    other = tensors_of(tmp_path / "other")
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_killed_run_resumes_to_the_same_weights(smoke_run, warm_ranklens, tmp_path):
    command = [sys.executable, "-m", "model", "train", "--smoke", "--config", str(CONFIG),
               "--data", str(warm_ranklens), "--out", str(tmp_path)]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(checkpoint.CheckpointError, match="same train command"):
        checkpoint.load(tmp_path)
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    uninterrupted, resumed = tensors_of(smoke_run), tensors_of(tmp_path)
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())
    assert (smoke_run / "metrics.jsonl").read_text() == log.read_text()


def test_a_directory_with_another_configuration_is_not_overwritten(smoke_run, warm_ranklens):
    other = dataclasses.replace(SMOKE, seed=5)
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        train(other, warm_ranklens, smoke_run)


def test_a_run_does_not_resume_with_other_data(smoke_run, warm_ranklens, tmp_path):
    other = shutil.copytree(warm_ranklens, tmp_path / "warm")
    rows = pl.read_parquet(other / "impressions.parquet")
    rows.head(20_000).write_parquet(other / "impressions.parquet")
    before = (smoke_run / "features.json").read_bytes(), (smoke_run / "items.npz").read_bytes()
    with pytest.raises(checkpoint.CheckpointError, match="holds a run on other data"):
        train(SMOKE, other, smoke_run)
    after = (smoke_run / "features.json").read_bytes(), (smoke_run / "items.npz").read_bytes()
    assert before == after
