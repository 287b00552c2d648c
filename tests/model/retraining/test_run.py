"""`python -m model retrain` on a small model of a store."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from model.__main__ import main
from model.data.errors import DataError
from model.retraining import stages
from model.retraining.errors import RetrainError
from model.retraining.plan import make_plan, next_version, share_of
from model.retraining.record import RECORD, RunRecord
from model.retraining.run import LOCK, STAGES, exclusive, retrain
from model.retraining.stages import DATA, bundle_of
from service.engine.contract import BundleError
from service.models.store import ServingConfig
from tests.support.logs import digest_tree
from tests.support.retraining import options_of, reject, serving


def test_a_candidate_that_passes_becomes_the_shadow_and_the_active_version_stays(finished):
    assert serving(finished) == ServingConfig("1", shadow="2")
    record = RunRecord.read(finished / "work" / "2")
    assert record.outcome == "shadow"
    assert list(record.stages) == list(STAGES)
    names = [
        gate["name"] for stage in ("labels", "gates") for gate in record.stages[stage]["gates"]
    ]
    assert names == ["labels", "validation", "parity", "latency", "golden requests", "limits"]
    bundle = bundle_of(record)
    assert digest_tree(bundle) == digest_tree(finished / "models" / "sale" / "2")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["training"]["continued_from"]["run"] == str(finished / "first")


def test_the_report_has_gates_and_plots_and_refers_to_no_other_file(finished):
    text = (finished / "work" / "2" / "report.html").read_text()
    assert "<h1>sale/2: shadow</h1>" in text
    assert text.count("<figure>") == text.count('role="img"') == 3
    assert text.count("<td>passed</td>") == 6
    assert not re.search(r"(src|href)=.http", text)


@pytest.mark.parametrize("names_the_first", [True, False])
def test_one_command_serves_the_nights_after_a_rejection_a_promotion_and_a_roll_back(
    finished, tmp_path, names_the_first
):
    root = tmp_path / "root"
    shutil.copytree(finished, root, symlinks=True)
    more = {"checkpoint": root / "first" if names_the_first else None, "promote": "canary:0.1"}
    steps = {"labels": reject, "train": stop}
    continued = []
    for version, active in (("3", "1"), ("4", "1"), ("5", "2"), ("6", "2"), ("7", "1")):
        ServingConfig(active).write(root / "models" / "sale")
        assert retrain(options_of(root, **more), steps) == 1
        record = RunRecord.read(root / "work" / version)
        assert record.outcome == "rejected"
        continued.append(Path(record.plan.checkpoint).resolve())
    first, second = (root / "first").resolve(), (root / "work" / "2" / "training").resolve()
    assert continued == [first, first, second, second, first]


PERMUTED = pl.col("label").shuffle(seed=1).over("request_id")


@pytest.mark.parametrize(
    ("wrong", "share", "splits"),
    [
        (PERMUTED, 0.9, {"train", "valid"}),
        (1 - pl.col("label"), 0.9, {"train", "valid"}),
        (PERMUTED, 0.8, {"train"}),
    ],
)
def test_a_log_with_wrong_labels_is_rejected_before_anything_is_trained_on_it(
    root, wrong, share, splits
):
    log = pl.read_parquet(root / "log.parquet")
    is_wrong = pl.col("timestamp") < share * pl.col("timestamp").max()
    log = log.with_columns(label=pl.when(is_wrong).then(wrong).otherwise("label"))
    log.write_parquet(root / "wrong.parquet")
    options = options_of(root, log=((root / "wrong.parquet",),))
    assert retrain(options) == 1
    assert serving(root) == ServingConfig("1")
    record = RunRecord.read(root / "work" / "2")
    assert record.outcome == "rejected"
    assert list(record.stages) == ["join", "prepare", "labels"]
    (gate,) = record.stages["labels"]["gates"]
    assert {split for split, (_, low, _) in gate["figures"].items() if low <= 0.0} == splits
    text = (root / "work" / "2" / "report.html").read_text()
    assert "<h1>sale/2: rejected</h1>" in text
    assert "<strong>Failed: labels.</strong>" in text
    assert {path.name for path in (root / "work" / "2").iterdir()} == {RECORD, "report.html"}


def test_a_dry_run_prints_the_plan_and_writes_nothing(root, capsys):
    before = digest_tree(root)
    assert retrain(options_of(root, dry_run=True, promote="canary:0.1")) == 0
    printed = capsys.readouterr().out
    assert "sale/2 from sale/1" in printed
    assert "train: to do" in printed
    assert "canary='2', share=0.1" in printed
    assert not (root / "work").exists()
    assert digest_tree(root) == before


def test_one_run_at_a_time(root):
    (root / "work").mkdir()
    with exclusive(root / "work" / LOCK), pytest.raises(RetrainError, match="held by another run"):
        retrain(options_of(root))


def stop(record, options, lock):
    raise RetrainError("stopped here")


def test_an_unfinished_run_refuses_other_options_until_it_is_abandoned(root, capsys):
    steps = {**STAGES, "join": stop}
    with pytest.raises(RetrainError, match="stopped here"):
        retrain(options_of(root), steps)
    with pytest.raises(RetrainError, match=r"--epochs: must be 1 as in the unfinished run .*got 2"):
        retrain(options_of(root, epochs=2), steps)
    data = root / "work" / "2" / DATA
    data.mkdir()
    with pytest.raises(RetrainError, match="stopped here"):
        retrain(options_of(root, epochs=2, abandon=True), steps)
    assert not data.exists()  # lists of users
    assert [RunRecord.read(root / "work" / v).outcome for v in "23"] == ["abandoned", None]


def test_a_run_whose_champion_was_replaced_ends_before_it_trains(root):
    steps = {**STAGES, "join": stop}
    with pytest.raises(RetrainError, match="stopped here"):
        retrain(options_of(root), steps)
    shutil.copytree(root / "models" / "sale" / "1", root / "models" / "sale" / "9")
    ServingConfig("9").write(root / "models" / "sale")
    assert retrain(options_of(root), steps) == 1
    assert RunRecord.read(root / "work" / "2").outcome == "superseded"


def test_a_run_waits_for_a_canary_that_is_under_way(root, capsys):
    ServingConfig("1", "5", 0.1).write(root / "models" / "sale")
    options = options_of(root, promote="canary:0.1")
    assert retrain(options) == 0
    assert "canary 5 is under way" in capsys.readouterr().out
    assert not list((root / "work").glob(f"*/{RECORD}"))
    assert retrain(options_of(root, promote="canary:0.1", dry_run=True)) == 0
    assert "canary 5 is under way" in capsys.readouterr().out
    with pytest.raises(RetrainError, match="stopped here"):  # a shadow is no experiment
        retrain(options_of(root), {**STAGES, "join": stop})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"promote": "canary:2"}, r"--promote: must be shadow, or canary:SHARE"),
        ({"promote": "active"}, r"--promote: must be"),
        ({"margin": -1.0}, r"--margin: must be from 0 to below 1, got -1"),
        ({"slowdown": 0.5}, r"--slowdown: must be at least 1, got 0.5"),
        ({"name": "shop"}, r"--name: must be one of sale, got shop"),
        ({"last": "30d"}, r"--last: needs --journal"),
        ({"last": "soon"}, r"--last: must be a duration above 0 .*got 'soon'"),
        ({"until": "soon"}, r"--until: must be a time such as .*got 'soon'"),
        ({"checkpoint": None}, r"--checkpoint: .* has no run of the active bundle sale/1"),
        ({"entropy_quantile": 1.5}, r"--entropy-quantile: must be from 0 to 1, got 1\.5"),
    ],
)
def test_a_wrong_option_is_refused_with_rule_and_value(root, fields, message):
    with pytest.raises((RetrainError, BundleError, DataError), match=message):
        retrain(options_of(root, **fields))
    assert not list((root / "work").glob(f"*/{RECORD}"))


def test_a_checkpoint_of_another_bundle_is_refused(root, smoke_run):
    with pytest.raises(
        RetrainError, match=r"the run of the active bundle sale/1, .*another config"
    ):
        retrain(options_of(root, checkpoint=smoke_run))
    with pytest.raises(RetrainError, match=r"sale/1, .* has no checkpoint \(.*no such file"):
        retrain(options_of(root, checkpoint=root / "none"))


def test_the_plan_has_the_path_of_the_training_for_any_working_directory(root, monkeypatch):
    monkeypatch.chdir(root)
    plan = make_plan(options_of(root, checkpoint=Path("first")), 0)
    assert Path(plan.checkpoint) == root / "first"


def test_the_command_takes_several_files_of_a_log(root, capsys):
    arguments = ["retrain", "--models", str(root / "models"), "--schema", "schema.yaml"]
    arguments += ["--checkpoint", str(root / "first"), "--work", str(root / "work"), "--dry-run"]
    assert main([*arguments, "--log", "a.parquet", "b.parquet", "--log", "c.parquet"]) == 0
    assert "sale/2 from sale/1" in capsys.readouterr().out
    assert main([*arguments, "--log", "a.parquet", "--epochs", "1", "--epochs", "2"]) == 2
    assert "--epochs: must be passed once" in capsys.readouterr().err


def test_the_command_needs_a_journal_or_a_log(root, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["retrain", "--models", str(root / "models"), "--schema", str(root / "schema.yaml")])
    assert exit_.value.code == 2
    assert "--journal" in capsys.readouterr().err


def test_versions_are_counted_above_those_of_the_store_and_of_all_runs(tmp_path):
    for name in ("models/a/1", "models/a/2.bak", "models/a/10-rc1", "work/11"):
        (tmp_path / name).mkdir(parents=True)
    assert next_version(tmp_path / "models" / "a", tmp_path / "work") == "12"
    assert next_version(tmp_path / "models" / "b", tmp_path / "none") == "1"


def test_shares_of_a_canary_are_read():
    assert share_of("canary:0.1") == 0.1
    assert share_of("shadow") is None


def test_the_entropy_quantile_reaches_the_export_and_is_part_of_the_plan(root, monkeypatch):
    calls = []

    def child(words, lock):
        calls.append([str(word) for word in words])
        return '{"verification": {}, "offline_metrics": {}}'

    monkeypatch.setattr(stages, "child", child)
    for quantile in (None, 0.3):
        options = options_of(root, entropy_quantile=quantile)
        stages.export(RunRecord(root / "work" / "2", make_plan(options, 0)), options, 0)
        assert make_plan(options, 0).options.get("entropy_quantile") == (quantile and "0.3")
    assert [call[5:] for call in calls] == [[], ["--entropy-quantile", "0.3"]]
