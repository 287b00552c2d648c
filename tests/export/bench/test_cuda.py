"""The comparison of two sessions; the static form on the CPU takes the GPU's place."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from export.agreement import DisagreementError, agree, closeness
from export.bench.cuda import (
    CudaOptions,
    check,
    page,
    random_batches,
    with_intents,
    write,
)
from export.bench.measure import cores
from service.engine.contract import EVALUATOR, INTENT_STATIC, STATIC, BundleError
from service.engine.cuda import CudaRunner
from service.engine.graph import open_graph
from service.engine.session import Session
from tests.support.bundles import BUNDLE

REPORTS = Path(__file__).parents[3] / "docs" / "reports"


@pytest.fixture(scope="module")
def cpu():
    return Session.load(BUNDLE, backend="onnx")


@pytest.fixture(scope="module")
def batches(cpu):
    return random_batches(cpu, 12)


@pytest.fixture
def other(cpu):
    graphs = [open_graph(BUNDLE / name, 1, "cpu") for name in (STATIC, EVALUATOR)]
    session = Session(cpu.manifest, cpu.featuriser, *graphs)
    session._run = CudaRunner(graphs[0], cpu.manifest.slate_length, device="cpu").run
    return session


def test_sessions_that_rank_alike_agree(cpu, other, batches):
    agreement = agree({"the CPU": cpu, "the GPU": other}, batches)
    assert agreement.slates == sum(map(len, batches)) > 50
    assert agreement.sampled > 5
    assert agreement.ties <= agreement.slates / 100
    assert agreement.largest_difference < 1e-4


def test_sessions_that_rank_alike_agree_on_random_intents(cpu, other, batches):
    other._run_intent = open_graph(BUNDLE / INTENT_STATIC, 1, "cpu").run
    other.supports_intent = True
    intended = with_intents(batches)
    agreement = agree({"the CPU": cpu, "the GPU": other}, intended)
    assert agreement.slates > 50
    changed = [
        plain.indices.tolist() != slate.indices.tolist()
        for rows, others in zip(batches, intended, strict=True)
        for plain, slate in zip(cpu.run(rows), cpu.run(others), strict=True)
    ]
    assert sum(changed) > 30


@pytest.mark.parametrize(
    ("name", "message"), [("entropy_threshold", "steps"), ("numbers", "may differ by 0.0001, got")]
)
def test_a_session_with_other_feeds_does_not_agree(cpu, other, batches, name, message):
    run = other._run
    other._run = lambda names, feeds: run(names, {**feeds, name: feeds[name] * 0.7})
    with pytest.raises(DisagreementError, match=message):
        agree({"the CPU": cpu, "the GPU": other}, batches)


def test_more_than_one_in_a_hundred_sampled_slates_may_not_differ(cpu, other, batches):
    run = other._run
    other._run = lambda names, feeds: run(names, {**feeds, "noise": feeds["noise"][:, :, ::-1]})
    with pytest.raises(DisagreementError, match="at most 1% may"):
        agree({"the CPU": cpu, "the GPU": other}, batches)


def test_other_log_probabilities_of_the_same_slates_are_refused(cpu, other, batches):
    run = other._run

    def shifted(names, feeds):
        return [a + 1e-3 if n == "logprob" else a
                for n, a in zip(names, run(names, feeds), strict=True)]  # fmt: skip

    other._run = shifted
    message = r"position \d+ of a list of \d+: logprob is .*, got 1\.0"
    with pytest.raises(DisagreementError, match=message):
        agree({"the CPU": cpu, "the GPU": other}, batches)


def test_a_decision_is_as_close_as_its_nearest_choice_or_gate(cpu, batches):
    row = next(r for r in batches[0] if r.sampling is None and len(r.numbers) > 1)
    (slate,) = cpu.run([row])
    top = np.sort(slate.logits[0])[-2:]
    never = dataclasses.replace(row, budget=0)
    assert closeness(never, slate, 0) == pytest.approx(top[1] - top[0])
    gated = dataclasses.replace(row, budget=3, entropy_threshold=float(slate.entropy_before[0]))
    assert closeness(gated, slate, 0) == 0


def test_the_comparison_is_refused_without_a_gpu(tmp_path):
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    options = CudaOptions(bundle=BUNDLE, out=tmp_path, batches=1, seconds=0.1)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(BundleError, match="instead of CUDAExecutionProvider"),
    ):
        check(options)
    assert not list(tmp_path.iterdir())


def test_the_report_states_the_comparison_and_each_time(tmp_path):
    agreement = {"slates": 8500, "sampled": 2000, "ties": 3, "largest_difference": 2e-5}
    row = {"lists": 4, "candidates": 50, "bucket": {}, "first_ms": 99.0, "cpu_ms": 2.0,
           "cpu_threads_ms": 1.0, "cuda_plain_ms": 9.0, "cuda_ms": 0.5}  # fmt: skip
    report = {"command": "c", "gpu": "G", "cores": cores(), "onnxruntime": "1", "steps": 30,
              "agreement": agreement, "open_s": {"cpu": 0.5, "cuda": 3.0},
              "rows": [row]}  # fmt: skip
    write(report, tmp_path)
    text = (tmp_path / "cuda.md").read_text()
    assert "8,500 slates" in text
    assert "| slates that differ | 3 |" in text
    assert "2.0e-05 nats" in text
    assert "| 4 | 50 | 2.0 | 1.0 | 9.0 | 0.5 | 0.25 | 99.0 |" in text


def test_the_committed_page_is_rendered_from_the_committed_figures():
    report = json.loads((REPORTS / "cuda.json").read_text())
    assert page(report) == (REPORTS / "cuda.md").read_text()
