"""An exported bundle ranks as torch does, and a bundle that does not is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from export import bundle
from export.cases import RequestSampler, cases
from export.golden import GOLDEN_USER
from export.verify import LOGPROB_TOLERANCE, VerificationError, verify
from model.data.dataset import Dataset
from model.learning import checkpoint
from model.learning.callers import shuffled
from model.learning.evaluate import evaluate
from model.learning.policy import Policy
from model.learning.train import train
from service.engine.contract import BundleError, Manifest
from service.engine.graph import open_graph
from service.engine.session import Session
from tests.support.runs import ROOT, SMOKE

HOUR = 3_600_000


def test_torch_and_the_exported_graph_agree_on_every_case(smoke_bundle):
    _, outcome = smoke_bundle
    assert outcome["verification"]["slates"] > 100
    assert outcome["verification"]["largest_difference"] < LOGPROB_TOLERANCE


def test_a_graph_of_other_weights_is_refused(smoke_bundle, smoke_run, warm_ranklens):
    directory, _ = smoke_bundle
    other = checkpoint.load(smoke_run)
    with torch.no_grad():
        weight = other.generator.pointer_query.weight
        weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(VerificationError):
        verify(other, directory, RequestSampler(warm_ranklens))


def test_a_graph_that_ignores_its_noise_is_refused(
    smoke_bundle, smoke_run, warm_ranklens, monkeypatch
):
    directory, _ = smoke_bundle

    class NoiselessGraph:
        def __init__(self, *arguments, **options):
            self.graph = open_graph(*arguments, **options)

        def run(self, names, feeds):
            silenced = {"noise": 0 * feeds["noise"]} if "noise" in feeds else {}
            return self.graph.run(names, feeds | silenced)

    monkeypatch.setattr("export.verify.open_graph", NoiselessGraph)
    with pytest.raises(VerificationError):
        verify(checkpoint.load(smoke_run), directory, RequestSampler(warm_ranklens))


def test_a_graph_of_intent_that_ignores_its_weights_is_refused(
    smoke_bundle, smoke_run, warm_ranklens, monkeypatch
):
    directory, _ = smoke_bundle

    class UnweightedGraph:
        def __init__(self, *arguments, **options):
            self.graph = open_graph(*arguments, **options)

        def run(self, names, feeds):
            ignored = (
                {"diversity_weight": 0 * feeds["diversity_weight"]} if "boost" in feeds else {}
            )
            return self.graph.run(names, feeds | ignored)

    monkeypatch.setattr("export.verify.open_graph", UnweightedGraph)
    with pytest.raises(VerificationError, match=r"generator\.intent\.onnx, Case"):
        verify(checkpoint.load(smoke_run), directory, RequestSampler(warm_ranklens))


def test_a_refused_bundle_is_not_written(smoke_run, warm_ranklens, tmp_path, monkeypatch):
    def disagree(_trained, _bundle, _requests):
        raise VerificationError("planted")

    monkeypatch.setattr(bundle, "verify", disagree)
    with pytest.raises(VerificationError, match="planted"):
        bundle.write(checkpoint.load(smoke_run), tmp_path / "smoke" / "1", warm_ranklens)
    assert list((tmp_path / "smoke").iterdir()) == []


def test_export_does_not_replace_a_directory_that_is_no_bundle(smoke_run, warm_ranklens, tmp_path):
    (tmp_path / "shop" / "1").mkdir(parents=True)
    (tmp_path / "shop" / "1" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"shop.1: .*'thesis\.txt'"):
        bundle.write(checkpoint.load(smoke_run), tmp_path / "shop" / "1", warm_ranklens)
    assert (tmp_path / "shop" / "1" / "thesis.txt").read_text() == "years of work"


def test_the_manifest_holds_what_evaluate_prints(smoke_bundle, warm_ranklens):
    directory, _ = smoke_bundle
    command = [sys.executable, "-m", "model", "evaluate", "--bundle", str(directory),
               "--data", str(warm_ranklens)]  # fmt: skip
    printed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert json.loads(printed) == Manifest.read(directory).offline_metrics


def test_the_session_ranks_as_the_torch_policy_does(smoke_bundle, smoke_run, warm_ranklens):
    directory, _ = smoke_bundle
    session, run = Session.load(directory), checkpoint.load(smoke_run)
    dataset = Dataset(warm_ranklens)
    lists = dataset.lists(["test"]).take(slice(40))
    policy = Policy(run.config, run.generator, session.manifest.entropy_threshold)
    slates = policy.greedy_slates(lists, run.config.reasoning.budget)[0].slate.numpy()
    for index, impression in enumerate(list(dataset.impressions(["test"]))[:40]):
        request = shuffled(impression).request
        chosen = session.run([session.row(request)])[0].indices.tolist()
        expected = [impression.request.ids[i] for i in slates[index]]
        assert [request.ids[i] for i in chosen] == expected


def test_a_flipped_byte_in_the_exported_graph_is_refused(smoke_bundle, tmp_path):
    directory, _ = smoke_bundle
    for name in os.listdir(directory):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    graph = tmp_path / "generator.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError, match=r"generator\.onnx: SHA-256"):
        Session.load(tmp_path)


def test_a_log_with_required_features_is_prepared_trained_exported_and_served(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("export.verify.cases", lambda trained: cases(trained)[::8])
    draw = np.random.default_rng(0)
    rows = [
        {
            "request_id": f"u{user}-{number}",
            "user_id": f"u{user}",
            "timestamp": (24 * number + 2 * user) * HOUR,
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
  - {name: like_rate, of: item, kind: statistic, half_life: 1d}
  - {name: price, of: candidate, kind: number, required: true}
  - {name: hour, of: context, kind: category, required: true}
  - {name: user_id, of: user, kind: identifier, required: true}
""")
    run = [sys.executable, "-m", "model", "prepare", "impressions", "--log", "log.parquet",
           "--schema", "schema.yaml", "--out", "data"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(run, check=True, cwd=tmp_path, capture_output=True, env=environment)
    prepared = pl.read_parquet(tmp_path / "data" / "impressions.parquet")
    assert set(prepared["label"]) == {0.0, 1.0}  # rescaled to 0..1
    train(SMOKE, tmp_path / "data", tmp_path / "run")
    out = tmp_path / "shop" / "1"
    outcome = bundle.write(checkpoint.load(tmp_path / "run"), out, tmp_path / "data")
    session = Session.load(out)
    replayed = json.loads((out / "golden.json").read_text())[0]["request"]
    assert set(replayed["candidates"][0]["features"]) == {"price", "like_rate"}
    assert set(replayed["context"]) == {"hour"}
    for name in ("golden.json", "golden.intent.json"):  # of users who may be deleted
        golden = json.loads((out / name).read_text())
        assert {entry["request"]["user"]["id"] for entry in golden} == {GOLDEN_USER}
    assert outcome["offline_metrics"] == evaluate(session, tmp_path / "data")
    check_moment(session, prepared.filter(pl.col("split") == "train"))


def check_moment(session, train):
    """Check that a bundle has the moment of the latest train list, and the counts up to it."""
    moment = int(train["timestamp"].to_numpy().max())
    assert session.manifest.as_of == f"{np.datetime64(moment, 'ms')}Z"
    assert "statistics.npz" in session.manifest.files
    snapshot = session.featuriser.snapshot
    assert snapshot.as_of == moment
    counts = snapshot.statistics["like_rate"]
    assert (counts.bucket, counts.half_life) == (15 * 60_000, 24 * HOUR)
    assert len(counts.shows) == len(session.featuriser.items.ids)
    assert counts.shows.sum() == pytest.approx(counts.all_shows)
    assert 0.0 < counts.all_shows < len(train)
