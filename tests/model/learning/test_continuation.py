"""A finished run continues on other data of its schema."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from export.bundle import manifest_of
from model.__main__ import main
from model.data.dataset import Dataset
from model.data.growth import read_schema
from model.learning import checkpoint, drift
from model.learning.continuation import continued_config
from model.learning.policy import Batch
from model.learning.state import RunState
from model.learning.train import Run, train
from model.study.identifier_log import write_identifier_log
from service.engine.features.layout import Layout
from tests.support.runs import SMOKE, tensors_of

CONFIG = dataclasses.replace(SMOKE, grpo=dataclasses.replace(SMOKE.grpo, epochs=1))
TABLE = "evaluator.embed.table.weight"


@pytest.fixture(scope="module")
def later_log(tmp_path_factory):
    """A log of 100 items of which 50 are new, with an hour that is always late."""
    out = tmp_path_factory.mktemp("later") / "log"
    write_identifier_log(out, items=100, rows=5000, first=50, valid=40)
    rows = pl.read_parquet(out / "impressions.parquet")
    rows.with_columns(hour=pl.lit("23")).write_parquet(out / "impressions.parquet")
    return out


@pytest.fixture(scope="module")
def finished(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train(CONFIG, log, out)
    return out


@pytest.fixture(scope="module")
def continued(finished, later_log, tmp_path_factory):
    out = tmp_path_factory.mktemp("continued") / "run"
    train(CONFIG, later_log, out, finished, continued=True)
    return out


def rows_of(directory, table):
    """Return the embedding of each item id."""
    schema = read_schema(directory)
    first = Layout(schema).first_token["item_id"] + 1
    vocabulary = schema.features[0].vocabulary
    return dict(zip(vocabulary, table[first : first + len(vocabulary)], strict=True))


def test_rows_keep_their_value_and_new_ones_start_near_that_of_an_unknown_value(
    finished, later_log, tmp_path
):
    run = Run(CONFIG, later_log, tmp_path, finished, continued=True)
    before = rows_of(finished, tensors_of(finished)[TABLE])
    after = rows_of(tmp_path, run.evaluator.embed.table.weight.detach())
    assert before.keys() < after.keys()
    assert all(torch.equal(after[value], row) for value, row in before.items())
    unknown = tensors_of(finished)[TABLE][Layout(read_schema(finished)).first_token["item_id"]]
    new = torch.stack([row for value, row in after.items() if value not in before])
    assert len(new) == 50
    assert (new - unknown).abs().max() < 0.1
    assert len(torch.unique(new, dim=0)) == 50


def test_normalisation_is_that_of_the_checkpoint(finished, later_log, continued):
    length, earlier = (read_schema(path).features[1] for path in (continued, finished))
    assert (length.mean, length.std) == (earlier.mean, earlier.std)
    fresh = Dataset(later_log).featuriser.schema.features[1]
    assert fresh.mean != earlier.mean


def test_a_value_that_vanished_keeps_its_row_through_training(finished, continued):
    before = rows_of(finished, tensors_of(finished)[TABLE])
    after = rows_of(continued, tensors_of(continued)[TABLE])
    moved = {value for value, row in before.items() if not torch.allclose(after[value], row)}
    vanished = {f"i{number:07d}" for number in range(50)}
    decay = 1 - CONFIG.evaluator.learning_rate * CONFIG.evaluator.weight_decay
    for value in vanished & before.keys():
        assert torch.allclose(after[value], before[value], rtol=50 * (1 - decay), atol=1e-6)
    assert len(moved - vanished) > 40


def test_continuing_on_the_same_data_is_no_worse_in_any_stage(finished, log, tmp_path):
    state = train(
        continued_config(checkpoint.read_state(finished)), log, tmp_path, finished, continued=True
    )
    earlier = checkpoint.read_state(finished)
    assert state.validation["final"]["ndcg@10"] >= earlier.validation["final"]["ndcg@10"] - 1e-6
    assert state.validation["evaluator"]["loss"] <= earlier.validation["evaluator"]["loss"] + 1e-6
    assert state.drift is not None
    assert set(state.drift.values()) == {0.0}


def test_a_new_item_that_is_always_liked_is_learnt(finished, later_log, tmp_path):
    data = shutil.copytree(later_log, tmp_path / "data")
    rows = pl.read_parquet(data / "impressions.parquet")
    new = rows.filter(pl.col("item_id") >= "i0000100")["item_id"].mode()[0]
    is_new = pl.col("item_id") == new
    label = pl.when(is_new).then(1.0).otherwise(pl.col("label")).cast(pl.Float32)
    rows.with_columns(label=label).write_parquet(data / "impressions.parquet")
    stage = dataclasses.replace(CONFIG.evaluator, epochs=4, learning_rate=5e-3)
    config = dataclasses.replace(CONFIG, evaluator=stage, train_lists=None)
    run = Run(config, data, tmp_path / "run", finished, continued=True)
    layout = Layout(run.featuriser.schema)
    token = int(layout.encode_tokens(layout.features["item_id"], [new], "")[0, 0])
    batch = Batch(run.all_valid, slice(None))
    at = batch.mask & (batch.tokens[..., 0] == token)

    def advantage():
        with torch.no_grad():
            logits = run.evaluator.eval()(
                run.evaluator.embed(batch.numbers, batch.tokens), batch.mask
            )
        return float(logits[at].mean() - logits[batch.mask & ~at].mean())

    before = advantage()
    run.run(stop_before="warm_start")
    assert advantage() > before + 0.5


def test_drift_is_printed_and_stored_and_the_manifest_has_the_origin(
    finished, continued, later_log, tmp_path, capsys
):
    state = checkpoint.read_state(continued)
    assert state.drift is not None
    assert [name for name, index in state.drift.items() if index > drift.DRIFTED] == [
        "hour", "item_id"
    ]  # fmt: skip
    Run(CONFIG, later_log, tmp_path, finished, continued=True)
    printed = capsys.readouterr().err
    assert "hour" in printed
    assert "drifted (above 0.2)" in printed
    origin = manifest_of(checkpoint.load(continued), tmp_path / "shop" / "2").training
    assert origin["continued_from"]["run"] == finished.as_posix()
    assert origin["continued_from"]["data_digest"] == checkpoint.read_state(finished).data_digest
    first = manifest_of(checkpoint.load(finished), tmp_path / "shop" / "1").training
    assert "continued_from" not in first


def test_drift_is_counted_again_where_a_run_has_no_distributions(finished, later_log, tmp_path):
    older = shutil.copytree(finished, tmp_path / "older")
    (older / drift.FILE).unlink()
    run = Run(CONFIG, later_log, tmp_path / "run", older, continued=True)
    assert run.state.drift is not None
    payload = json.loads((older / "checkpoint.json").read_text())
    payload["data_digest"] = "of data that was deleted"
    (older / "checkpoint.json").write_text(json.dumps(payload))
    run = Run(CONFIG, later_log, tmp_path / "other", older, continued=True)
    assert run.state.drift is None


def test_an_interrupted_continued_run_resumes_without_its_origin_to_the_same_weights(
    finished, continued, later_log, tmp_path
):
    origin = shutil.copytree(finished, tmp_path / "origin")
    out = tmp_path / "run"
    Run(CONFIG, later_log, out, origin, continued=True).run(stop_before="grpo")
    shutil.rmtree(origin)
    assert main(["train", "--data", str(later_log), "--out", str(out), "--from", str(origin)]) == 0
    expected, resumed = tensors_of(continued), tensors_of(out)
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    assert (out / "metrics.jsonl").read_text() == (continued / "metrics.jsonl").read_text()


def test_a_quarter_of_the_epochs_is_the_default_of_the_first_continuation_and_of_all_after_it():
    state = RunState(positions=4, config=SMOKE.override(epochs=9))
    first = continued_config(state)
    assert [getattr(first, name).epochs for name in ("evaluator", "warm_start", "grpo")] == [3] * 3
    again = RunState(positions=4, config=first, continued_from={"run": "first"})
    assert continued_config(again) == first
    short = RunState(positions=4, config=SMOKE.override(epochs=1))
    assert continued_config(short) == short.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slate_length": 3}, "configuration with slate_length 4, got 3"),
        ({"budget": 1}, r"configuration with reasoning\.budget 2, got 1"),
    ],
)
def test_a_configuration_of_another_shape_is_refused(finished, log, tmp_path, change, message):
    config = CONFIG.override(budget=change.get("budget"))
    config = dataclasses.replace(config, slate_length=change.get("slate_length", 4))
    with pytest.raises(checkpoint.CheckpointError, match=message):
        train(config, log, tmp_path, finished, continued=True)


def test_another_schema_or_an_unfinished_run_is_refused_in_one_line(
    finished, log, tmp_path, capsys
):
    data = shutil.copytree(log, tmp_path / "data")
    text = (data / "schema.yaml").read_text()
    (data / "schema.yaml").write_text(text.replace("kind: number", "kind: number, transform: log"))
    command = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--from"]
    assert main([*command, str(finished)]) == 2
    error = capsys.readouterr().err
    assert "features.length.transform: must be 'none' as in the checkpoint, got 'log'" in error
    assert error.count("\n") == 1
    unfinished = shutil.copytree(finished, tmp_path / "unfinished")
    payload = json.loads((unfinished / "checkpoint.json").read_text())
    (unfinished / "checkpoint.json").write_text(json.dumps(payload | {"stage": "grpo"}))
    command[2] = str(log)
    assert main([*command, str(unfinished)]) == 2
    assert "training stopped in stage 'grpo'" in capsys.readouterr().err


def test_a_directory_with_another_run_is_not_overwritten(finished, continued, log):
    for out, before in ((finished, "no other run"), (continued, finished.as_posix())):
        with pytest.raises(checkpoint.CheckpointError, match=f"continues {before}, not"):
            train(CONFIG, log, out, finished.parent / "elsewhere", continued=True)


def test_the_origin_of_a_run_is_recognised_by_another_path(
    finished, continued, later_log, monkeypatch
):
    monkeypatch.chdir(finished.parent)
    again = train(CONFIG, later_log, continued, Path(finished.name), continued=True)
    assert (again.continued_from or {})["run"] == finished.as_posix()


def test_an_option_that_differs_from_the_run_that_resumes_is_refused(
    finished, continued, later_log, capsys
):
    command = ["train", "--data", later_log, "--out", continued, "--from", finished]
    assert main([*map(str, command), "--epochs", "7"]) == 2
    assert "holds a run with another configuration" in capsys.readouterr().err


def test_longer_lists_get_the_embedding_of_the_last_position(finished, log, tmp_path):
    data = shutil.copytree(log, tmp_path / "data")
    rows = pl.read_parquet(data / "impressions.parquet")
    extra = (
        rows.filter(pl.col("request_id") == "60")
        .head(3)
        .with_columns(position=pl.col("position") + 25, item_id=pl.lit("i0000099"))
    )
    pl.concat([rows, extra]).sort("timestamp", "position").write_parquet(
        data / "impressions.parquet"
    )
    run = Run(CONFIG, data, tmp_path / "run", finished, continued=True)
    before = tensors_of(finished)["evaluator.position.weight"]
    after = run.evaluator.position.weight
    assert (len(before), len(after)) == (25, 28)
    assert torch.equal(after[:25], before)
    assert all(torch.equal(row, before[-1]) for row in after[25:])
    assert np.isfinite(run.validation.evaluator_score()[0])
