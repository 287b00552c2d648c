"""The whole line in miniature on the committed data: prepare, train, export, serve, evaluate."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from export import bundle, verify
from export.cases import Requests
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.fitting import fit
from model.learning import checkpoint
from model.learning.evaluate import evaluate, uninformative
from model.learning.policy import Policy
from model.learning.train import train
from model.network.config import Config
from service.engine.contract import BundleError, Manifest
from service.engine.features.schema import Schema
from service.engine.session import Session

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "model" / "configs" / "ranklens.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranklens")
    command = [sys.executable, "-m", "model", "prepare", "ranklens", "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return out / "warm"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(Config.load(CONFIG).smoke(), data, out)
    return out


@pytest.fixture(scope="module")
def exported(trained, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "smoke" / "1"
    outcome = bundle.write(checkpoint.load(trained), out, data)
    return out, outcome


def tensors_of(directory):
    return checkpoint.read(directory)[1]


def test_features_are_fitted_on_the_train_split_only():
    schema = Schema.from_dict(
        {
            "name": "tiny",
            "features": [
                {"name": "length", "of": "item", "kind": "number"},
                {"name": "genre", "of": "item", "kind": "category"},
            ],
        }
    )
    rows = pl.DataFrame(
        {
            "request_id": ["r1", "r1", "r2", "r2"],
            "user_id": ["u"] * 4,
            "item_id": ["a", "b", "a", "c"],
            "label": [1.0, 0.0, 0.0, 1.0],
            "split": ["train", "train", "test", "test"],
        }
    )
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "length": [1.0, 3.0, 99.0], "genre": ["x", "y", "z"]}
    )
    fitted = fit(schema, rows, items, pl.DataFrame({"user_id": ["u"]})).schema.features
    assert (fitted[0].mean, fitted[0].std) == (2.0, 1.0)  # of 1 and 3; the test list's 99 unseen
    assert fitted[1].vocabulary == ("x", "y")


@pytest.mark.parametrize(
    ("least", "items", "users", "genres"),
    [
        (1, ("a", "b", "c"), ("u", "v"), ("x", "y")),
        (2, ("a", "b"), ("u",), ("x",)),
        (3, ("a",), (), ()),
    ],
)
def test_ids_are_counted_where_train_shows_them_and_other_features_among_the_items(
    least, items, users, genres
):
    features = [("item_id", "item", "identifier"), ("user_id", "user", "identifier"),
                ("genre", "item", "category")]  # fmt: skip
    schema = {"name": "tiny", "features": [
        {"name": name, "of": of, "kind": kind, "min_count": least} for name, of, kind in features
    ]}  # fmt: skip
    lists = [("u", "train", "ab"), ("u", "train", "ab"), ("v", "train", "ac"), ("v", "test", "bcd")]
    rows = [
        {"request_id": f"r{number}", "user_id": user, "split": split, "item_id": item, "label": 0.0}
        for number, (user, split, shown) in enumerate(lists)
        for item in shown
    ]
    table = pl.DataFrame({"item_id": list("abcd"), "genre": list("xxyx")})
    known = pl.DataFrame({"user_id": ["u", "v"]})
    fitted = fit(Schema.from_dict(schema), pl.DataFrame(rows), table, known).schema.features
    assert tuple(feature.vocabulary for feature in fitted) == (items, users, genres)


def test_a_constant_column_keeps_a_deviation_of_one():
    schema = Schema.from_dict(
        {"name": "tiny", "features": [{"name": "price", "of": "item", "kind": "number"}]}
    )
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "price": [0.1, 0.1, 0.1]})
    rows = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"],
                         "request_id": ["r"] * 3, "label": [1.0, 0.0, 0.0],
                         "split": ["train"] * 3})  # fmt: skip
    (feature,) = fit(schema, rows, items, pl.DataFrame({"user_id": ["u"]})).schema.features
    assert (feature.mean, feature.std) == (pytest.approx(0.1), 1.0)


def test_histories_hold_other_train_lists_or_earlier_lists_never_the_list_itself(data):
    dataset = Dataset(data)
    lists = list(dataset.impressions(["train", "valid", "test"]))
    by_user = {}
    for impression in lists:
        by_user.setdefault(impression.user_id, []).append(impression)
    for user in list(by_user)[:200]:
        own = by_user[user]
        for impression in own:
            sizes = {
                "train": sum(len(o.labels) for o in own if o.split == "train")
                - len(impression.labels),
                "valid": sum(len(o.labels) for o in own if o.split == "train"),
                "test": sum(len(o.labels) for o in own if o.split != "test"),
            }
            assert len(impression.request.history) == min(128, sizes[impression.split])


def test_a_train_list_gets_out_of_fold_rates_and_a_test_list_the_tables(data):
    dataset = Dataset(data)
    column = dataset.featuriser.column("like_rate")
    for split, same in (("train", False), ("test", True)):
        impression = next(dataset.impressions([split]))
        numbers, _ = dataset.featuriser.transform(impression.request)
        bare = dataclasses.replace(impression.request, features=())
        table, _ = dataset.featuriser.transform(bare)
        assert np.array_equal(numbers[:, column], table[:, column]) is same


def test_a_smoke_run_goes_through_every_stage_and_logs_each_epoch(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    stages = [line["stage"] for line in lines]
    assert list(dict.fromkeys(stages)) == ["evaluator", "warm_start", "grpo"]
    assert all(
        np.isfinite(value) for line in lines for value in line.values() if value != line["stage"]
    )
    assert list((trained / "events").iterdir())
    assert checkpoint.load(trained).threshold > 0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, data, tmp_path):
    config = Config.load(CONFIG).smoke()
    train(config, data, tmp_path / "same")
    train(dataclasses.replace(config, seed=1), data, tmp_path / "other")
    want, same = tensors_of(trained), tensors_of(tmp_path / "same")
    assert want.keys() == same.keys()
    assert all(torch.equal(want[name], same[name]) for name in want)
    other = tensors_of(tmp_path / "other")
    assert any(not torch.equal(want[name], other[name]) for name in want)


def test_a_killed_run_resumes_to_the_same_weights(trained, data, tmp_path):
    command = [
        sys.executable,
        "-m",
        "model",
        "train",
        "--smoke",
        "--config",
        str(CONFIG),
        "--data",
        str(data),
        "--out",
        str(tmp_path),
    ]
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
    want, found = tensors_of(trained), tensors_of(tmp_path)
    assert all(torch.equal(want[name], found[name]) for name in want)
    assert (trained / "metrics.jsonl").read_text() == log.read_text()


def test_a_directory_with_another_configuration_is_not_overwritten(trained, data):
    other = dataclasses.replace(Config.load(CONFIG).smoke(), seed=5)
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        train(other, data, trained)


def test_reasoning_plugs_into_a_finished_host_and_into_no_other_network(data, tmp_path):
    config = Config.load(CONFIG).smoke()
    plain = dataclasses.replace(config, reasoning=dataclasses.replace(config.reasoning, budget=0))
    train(plain, data, tmp_path / "host")
    state = train(config, data, tmp_path / "eglr", tmp_path / "host", plug_in=True)
    assert state.validation["final"]["steps"] > 0
    lines = (tmp_path / "eglr" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in lines} == {"grpo"}
    # What GRPO starts from are the host's weights, but for the steps that it never had.
    before = checkpoint.read(tmp_path / "host")[1]
    after = checkpoint.read(tmp_path / "eglr")[1]
    names = [n.removeprefix("reference.") for n in after if n.startswith("reference.")]
    other = [n for n in names if not after[f"reference.{n}"].equal(before[f"generator.{n}"])]
    assert other == ["reason_step.weight"]

    gru = dataclasses.replace(config, network=dataclasses.replace(config.network, host="gru"))
    with pytest.raises(checkpoint.CheckpointError, match="a finished run with the network"):
        train(gru, data, tmp_path / "gru", tmp_path / "host", plug_in=True)


def test_data_without_a_list_to_validate_on_is_refused_before_training(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "warm")
    rows = pl.read_parquet(copy / "impressions.parquet")
    rows.filter(pl.col("split") != "valid").write_parquet(copy / "impressions.parquet")
    with pytest.raises(DataError, match="at least one valid list with a positive and a negative"):
        train(Config.load(CONFIG).smoke(), copy, tmp_path / "run")


def test_a_split_without_a_list_to_measure_on_is_not_evaluated(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "warm")
    rows = pl.read_parquet(copy / "impressions.parquet")
    rows.filter(pl.col("split") != "valid").write_parquet(copy / "impressions.parquet")
    session = Session.load(ROOT / "bundles" / "ranklens" / "1")
    with pytest.raises(DataError, match="at least one valid list with a positive and a negative"):
        evaluate(session, copy, "valid")


def test_a_run_does_not_go_on_with_other_data(trained, data, tmp_path):
    other = shutil.copytree(data, tmp_path / "warm")
    rows = pl.read_parquet(other / "impressions.parquet")
    rows.head(20_000).write_parquet(other / "impressions.parquet")
    before = (trained / "features.json").read_bytes(), (trained / "items.npz").read_bytes()
    with pytest.raises(checkpoint.CheckpointError, match="holds a run on other data"):
        train(Config.load(CONFIG).smoke(), other, trained)
    after = (trained / "features.json").read_bytes(), (trained / "items.npz").read_bytes()
    assert before == after


def test_a_run_starts_from_no_run_on_other_data_nor_from_an_unfinished_evaluator(
    trained, data, tmp_path
):
    other = shutil.copytree(data, tmp_path / "warm")
    rows = pl.read_parquet(other / "impressions.parquet")
    rows.head(20_000).write_parquet(other / "impressions.parquet")
    smoke = Config.load(CONFIG).smoke()
    for plug_in in (False, True):
        with pytest.raises(checkpoint.CheckpointError, match="other data than"):
            train(smoke, other, tmp_path / "run", trained, plug_in=plug_in)
    unfinished = shutil.copytree(trained, tmp_path / "unfinished")
    info = json.loads((unfinished / "checkpoint.json").read_text())
    del info["shared_seconds"]
    (unfinished / "checkpoint.json").write_text(json.dumps(info))
    with pytest.raises(checkpoint.CheckpointError, match="its evaluator is not finished"):
        train(smoke, data, tmp_path / "run", unfinished)


def test_export_does_not_replace_a_directory_that_is_no_bundle(trained, data, tmp_path):
    (tmp_path / "shop" / "1").mkdir(parents=True)
    (tmp_path / "shop" / "1" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"shop.1: .*'thesis\.txt'"):
        bundle.write(checkpoint.load(trained), tmp_path / "shop" / "1", data)
    assert (tmp_path / "shop" / "1" / "thesis.txt").read_text() == "years of work"


def test_a_log_with_required_features_goes_the_whole_way(tmp_path):
    draw = np.random.default_rng(0)
    rows = [
        {
            "request_id": f"u{user}-{number}",
            "user_id": f"u{user}",
            "timestamp": number,
            "position": position,
            "item_id": f"i{item}",
            "label": 5.0 * float(draw.random() < 0.4),
            "price": float(item),
            "hour": str(number),
        }
        for user in range(12)
        for number in range(4)
        for position, item in enumerate(draw.choice(30, 6, replace=False).tolist())
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "schema.yaml").write_text("""
name: shop
label: {range: [0, 5]}
features:
  - {name: price, of: candidate, kind: number, required: true}
  - {name: hour, of: context, kind: category, required: true}
""")
    run = [sys.executable, "-m", "model", "prepare", "impressions", "--log", "log.parquet",
           "--schema", "schema.yaml", "--out", "data"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(run, check=True, cwd=tmp_path, capture_output=True, env=environment)
    labels = pl.read_parquet(tmp_path / "data" / "impressions.parquet")["label"]
    assert set(labels) == {0.0, 1.0}  # brought to 0..1
    train(Config.load(CONFIG).smoke(), tmp_path / "data", tmp_path / "run")
    out = tmp_path / "shop" / "1"
    outcome = bundle.write(checkpoint.load(tmp_path / "run"), out, tmp_path / "data")
    session = Session.load(out)
    replayed = json.loads((out / "golden.json").read_text())[0]["request"]
    assert set(replayed["candidates"][0]["features"]) == {"price"}
    assert set(replayed["context"]) == {"hour"}
    assert outcome["offline_metrics"] == evaluate(session, tmp_path / "data")


def test_data_that_was_not_prepared_is_refused_in_one_line(tmp_path):
    command = ["evaluate", "--bundle", "bundles/ranklens/1", "--data", str(tmp_path / "no")]
    done = subprocess.run(
        [sys.executable, "-m", "model", *command],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("evaluate: ")
    assert "no: a prepared data set (python -m model prepare)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_torch_and_the_exported_graph_agree_on_every_case(exported):
    _, outcome = exported
    assert outcome["verification"]["slates"] > 100
    assert outcome["verification"]["largest_difference"] < verify.LOGPROB_TOLERANCE


def test_a_graph_of_other_weights_is_refused(exported, trained, data):
    directory, _ = exported
    other = checkpoint.load(trained)
    with torch.no_grad():
        weight = other.generator.pointer_query.weight
        weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(verify.VerificationError):
        verify.verify(other, directory, Requests(data))


def test_a_graph_that_ignores_its_noise_is_refused(exported, trained, data, monkeypatch):
    directory, _ = exported
    real = verify.tensors_of

    def quiet(own, rows):  # what torch decodes keeps the noise, what the graph is fed does not
        feeds = real(own, rows)
        caller = sys._getframe(1).f_code.co_name
        return feeds if caller == "decode_torch" else feeds | {"noise": feeds["noise"] * 0}

    monkeypatch.setattr(verify, "tensors_of", quiet)
    with pytest.raises(verify.VerificationError):
        verify.verify(checkpoint.load(trained), directory, Requests(data))


def test_a_refused_bundle_is_not_written(trained, data, tmp_path, monkeypatch):
    def disagree(_trained, _bundle, _requests):
        raise verify.VerificationError("planted")

    monkeypatch.setattr(bundle, "verify", disagree)
    with pytest.raises(verify.VerificationError, match="planted"):
        bundle.write(checkpoint.load(trained), tmp_path / "smoke" / "1", data)
    assert list((tmp_path / "smoke").iterdir()) == []


def test_the_manifest_holds_what_evaluate_prints(exported, data):
    directory, _ = exported
    command = [
        sys.executable,
        "-m",
        "model",
        "evaluate",
        "--bundle",
        str(directory),
        "--data",
        str(data),
    ]
    printed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert json.loads(printed) == Manifest.read(directory).offline_metrics


def test_the_session_ranks_as_the_torch_policy_does(exported, trained, data):
    directory, _ = exported
    session, run = Session.load(directory), checkpoint.load(trained)
    dataset = Dataset(data)
    lists = dataset.lists(["test"]).take(slice(40))
    policy = Policy(run.config, run.generator, run.threshold)
    want = policy.rank(lists, run.config.reasoning.budget)[0].slate.numpy()
    for index, impression in enumerate(list(dataset.impressions(["test"]))[:40]):
        asked = uninformative(impression)
        chosen = session.run([session.row(asked.request)])[0].indices.tolist()
        shown = [impression.request.ids[i] for i in want[index]]
        assert [asked.request.ids[i] for i in chosen] == shown


def test_a_flipped_byte_in_the_exported_graph_is_refused(exported, tmp_path):
    directory, _ = exported
    for name in os.listdir(directory):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    graph = tmp_path / "generator.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError, match=r"generator\.onnx: SHA-256"):
        Session.load(tmp_path)


def test_permuted_labels_fall_to_random(tmp_path):
    out = tmp_path / "permuted"
    command = [
        sys.executable,
        "-m",
        "model",
        "prepare",
        "ranklens",
        "--out",
        str(out),
        "--permute-labels",
        "0",
    ]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    run = tmp_path / "run"
    config = dataclasses.replace(Config.load(CONFIG).smoke(), slate_length=10, train_lists=1024)
    train(config, out / "warm", run)
    trained = checkpoint.load(run)
    bundle_like = Policy(trained.config, trained.generator, trained.threshold)
    lists = Dataset(out / "warm").lists(["test"]).rankable()
    from model.data.metrics import interval, slate_metrics

    decoded = bundle_like.rank(lists, config.reasoning.budget)
    slate = torch.cat([d.slate for d in decoded]).numpy()
    _, low, high = interval(slate_metrics(slate, lists.labels)["ndcg@10"])
    assert low < 0.315
    assert high < 0.335


def test_evaluate_leaves_out_lists_that_tell_nothing_about_order(exported, data):
    directory, _ = exported
    result = evaluate(Session.load(directory), data)
    rows = Dataset(data).lists(["test"])
    assert result["lists"] == len(rows.rankable()) < len(rows)
