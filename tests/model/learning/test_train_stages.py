"""Training goes through its stages, and takes over finished runs that fit."""

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.intervals import interval
from model.data.metrics import slate_metrics
from model.learning import checkpoint
from model.learning.policy import Policy
from model.learning.train import train
from tests.support.logs import prepare
from tests.support.runs import SMOKE


def test_a_smoke_run_goes_through_every_stage_and_logs_each_epoch(smoke_run):
    lines = [json.loads(line) for line in (smoke_run / "metrics.jsonl").read_text().splitlines()]
    stages = [line["stage"] for line in lines]
    assert list(dict.fromkeys(stages)) == ["evaluator", "warm_start", "grpo"]
    assert all(
        np.isfinite(value) for line in lines for value in line.values() if value != line["stage"]
    )
    assert list((smoke_run / "events").iterdir())
    assert checkpoint.load(smoke_run).threshold > 0


def test_reasoning_plugs_into_a_finished_host_and_into_no_other_network(warm_ranklens, tmp_path):
    config = SMOKE
    plain = dataclasses.replace(config, reasoning=dataclasses.replace(config.reasoning, budget=0))
    train(plain, warm_ranklens, tmp_path / "host")
    state = train(config, warm_ranklens, tmp_path / "eglr", tmp_path / "host", plug_in=True)
    assert state.validation["final"]["steps"] > 0
    lines = (tmp_path / "eglr" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in lines} == {"grpo"}
    # GRPO starts from the host's weights; only the embeddings of its missing steps are new.
    before = checkpoint.read(tmp_path / "host")[1]
    after = checkpoint.read(tmp_path / "eglr")[1]
    names = [n.removeprefix("reference.") for n in after if n.startswith("reference.")]
    other = [n for n in names if not after[f"reference.{n}"].equal(before[f"generator.{n}"])]
    assert other == ["reason_step.weight"]

    gru = dataclasses.replace(config, network=dataclasses.replace(config.network, host="gru"))
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"needs a finished run with .*host='gru'.*host='transformer'",
    ):
        train(gru, warm_ranklens, tmp_path / "gru", tmp_path / "host", plug_in=True)


def test_data_without_a_rankable_valid_list_is_refused_before_training(warm_ranklens, tmp_path):
    copy = shutil.copytree(warm_ranklens, tmp_path / "warm")
    rows = pl.read_parquet(copy / "impressions.parquet")
    rows.filter(pl.col("split") != "valid").write_parquet(copy / "impressions.parquet")
    with pytest.raises(DataError, match="at least one valid list with a positive and a negative"):
        train(SMOKE, copy, tmp_path / "run")


def test_a_run_starts_from_no_run_on_other_data_nor_from_an_unfinished_evaluator(
    smoke_run, warm_ranklens, tmp_path
):
    other = shutil.copytree(warm_ranklens, tmp_path / "warm")
    rows = pl.read_parquet(other / "impressions.parquet")
    rows.head(20_000).write_parquet(other / "impressions.parquet")
    for plug_in in (False, True):
        with pytest.raises(checkpoint.CheckpointError, match="holds a run on other data"):
            train(SMOKE, other, tmp_path / "run", smoke_run, plug_in=plug_in)
    unfinished = shutil.copytree(smoke_run, tmp_path / "unfinished")
    info = json.loads((unfinished / "checkpoint.json").read_text())
    del info["shared_seconds"]
    (unfinished / "checkpoint.json").write_text(json.dumps(info))
    with pytest.raises(checkpoint.CheckpointError, match="its evaluator is not finished"):
        train(SMOKE, warm_ranklens, tmp_path / "run", unfinished)


def test_permuted_labels_leave_ndcg_at_the_random_level(tmp_path):
    out = tmp_path / "permuted"
    prepare("ranklens", "--out", out, "--permute-labels", "0")
    run = tmp_path / "run"
    config = dataclasses.replace(SMOKE, slate_length=10, train_lists=1024)
    train(config, out / "warm", run)
    trained = checkpoint.load(run)
    policy = Policy(trained.config, trained.generator, trained.threshold)
    lists = Dataset(out / "warm").lists(["test"]).rankable()
    decoded = policy.greedy_slates(lists, config.reasoning.budget)
    slate = torch.cat([d.slate for d in decoded]).numpy()
    _, low, high = interval(slate_metrics(slate, lists.labels)["ndcg@10"])
    assert low is not None
    assert high is not None
    assert low < 0.315
    assert high < 0.335
