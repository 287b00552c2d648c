"""Traced states of reasoning, compared with those of the torch loop."""

import dataclasses
import shutil
import threading

import numpy as np
import onnx
import pytest
import torch

from export.draws import random_batches, random_lists
from model.network.hosts import HOSTS
from model.network.intent import IntentTensors
from model.network.reasoning import ConstraintTensors, EntropyGate, decode, noisy_argmax
from service.engine import native_backend
from service.engine.collate import ModelError
from service.engine.constraints import SlateConstraints
from service.engine.contract import INTENT_STATIC, STATIC, BundleError, Manifest
from service.engine.features.candidates import CandidateList
from service.engine.graph import open_graph
from service.engine.rows import Row, Slate, SlateSampling
from service.engine.session import Session
from service.engine.step_outputs import state_names, with_outputs
from service.engine.steps import StepTracer
from tests.support.bundles import BUNDLE, ROOT
from tests.support.graphs import (
    CLOSE,
    OF_ITEMS,
    OF_REQUEST,
    K,
    S,
    build,
    is_clear,
    random_feeds,
    random_intents,
)

FROZEN = ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1"
FIGURES = ("logprob", "entropy_before", "entropy_after")


class RecordingGate(EntropyGate):
    """An entropy gate that keeps the logits before each step: [K][S] of float [R, N]."""

    def __init__(self, threshold, budget):
        super().__init__(threshold, budget)
        self.max_steps = S
        self.logits: list[list[torch.Tensor]] = [[] for _ in range(K)]

    def __call__(self, position, step, choice):
        self.logits[position].append(choice.logits)
        return super().__call__(position, step, choice)


def torch_states(generator, feeds):
    """Return the torch loop's slates, and the logits float64 [R, K, 1 + S, N] of all states."""
    t = {name: torch.from_numpy(array) for name, array in feeds.items()}
    recommend, reason = (t[f"{n}_temperature"].unsqueeze(1) for n in ("recommend", "reason"))
    gate = RecordingGate(t["entropy_threshold"], t["budget"])
    with torch.no_grad():
        decoded = decode(
            generator, generator.encode(t["numbers"], t["tokens"], t["mask"]), K,
            noisy_argmax(t["noise"], recommend), recommend, gate,
            constraints=ConstraintTensors(t["length"], t["pinned"], t["group"], t["quota"]),
            reason_temperature=reason,
            intent=IntentTensors.begin(t) if "boost" in t else None,
        )  # fmt: skip
    states = [
        torch.stack([*before, decoded.logits[:, position]], dim=1)
        for position, before in enumerate(gate.logits)
    ]
    return decoded, torch.stack(states, dim=1).double().numpy()


def row_of(generator, feeds, index, constraints, sampling, intent):
    """Return one list of the feeds as a row of the contract."""
    size, length = int(feeds["mask"][index].sum()), int(feeds["length"][index])
    numbers, tokens = feeds["numbers"][index, :size], feeds["tokens"][index, :size]
    with torch.no_grad():
        weight = generator.embed.project.weight[:, OF_ITEMS]
        rows = torch.from_numpy(numbers[:, OF_ITEMS]) @ weight.T
        rows += generator.embed.table(torch.from_numpy(tokens)).sum(1)
    return Row(
        numbers=np.ascontiguousarray(numbers[:, OF_REQUEST]),
        tokens=np.zeros((size, 0), np.int64),
        slate_size=length,
        budget=int(feeds["budget"][index]),
        entropy_threshold=float(feeds["entropy_threshold"][index]),
        reason_temperature=float(feeds["reason_temperature"][index]),
        recommend_temperature=float(feeds["recommend_temperature"][index]),
        constraints=constraints or SlateConstraints.none(size, length),
        sampling=sampling,
        rows=rows.numpy(),
        intent=intent,
    )


def slate_of(decoded, index, row):
    """Return the slate of the torch loop for one list."""
    size = row.slate_size
    logprob, before, after = (getattr(decoded, name)[index, :size] for name in FIGURES)
    return Slate(
        decoded.slate[index, :size].numpy(),
        logprob.numpy(),
        before.numpy(),
        after.numpy(),
        decoded.steps[index, :size].numpy(),
        sample=int(row.sampling is not None),
    )


def tracer_of(models, directory):
    """Write both static graphs as those of a bundle, and return its tracer."""
    for name, form in ((STATIC, "static"), (INTENT_STATIC, "static, intent")):
        (directory / name).write_bytes(models[form].SerializeToString())
    manifest = Manifest("random", "1", K, S, 0.7, 1.5, 0.7, 50, len(OF_REQUEST), {}, {})
    return StepTracer(directory, manifest.write(directory))


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def entropy_of(logits):
    logprob = log_softmax(logits)
    return -(np.exp(logprob) * logprob).sum(axis=-1)


def assert_states(trace, states, row):
    """Compare a trace with the logits float64 [k, 1 + S, N] of the torch loop."""
    np.testing.assert_allclose(trace.entropy, entropy_of(states), rtol=0, atol=CLOSE)
    leading = np.maximum(trace.leading, 0)
    for figure, temperature in (
        (trace.logprob, row.recommend_temperature),
        (np.log(np.maximum(trace.weight, 1e-30)), row.reason_temperature),
    ):
        right = np.take_along_axis(log_softmax(states / temperature), leading, axis=-1)
        is_choice = (trace.leading >= 0) & (right > np.log(1e-20))
        np.testing.assert_allclose(
            figure[is_choice], right[is_choice], rtol=CLOSE, atol=CLOSE / temperature
        )


def sampled_feeds(seed, lists, intents):
    """Return random feeds, of which every other list is sampled, and what rows are made of."""
    feeds, resolved = random_feeds(seed, lists)
    feeds["noise"][:] = 0
    samplings = [SlateSampling(2, seed) if index % 2 else None for index in range(lists)]
    for index, sampling in enumerate(samplings):
        if sampling is not None:
            size = int(feeds["mask"][index].sum())
            feeds["noise"][index, :, :size] = sampling.noise(K, size)[1]
    some, inputs = random_intents(seed, feeds) if intents else ([None] * lists, {})
    return feeds | inputs, list(zip(resolved, samplings, some, strict=True))


@pytest.mark.parametrize("intents", [False, True], ids=["plain", "intent"])
@pytest.mark.parametrize("host", sorted(HOSTS))
def test_the_traced_states_are_those_of_the_torch_loop(host, intents, tmp_path):
    generator, _, models = build(host)
    tracer = tracer_of(models, tmp_path)
    traced = told_apart = 0
    for seed in range(3):
        feeds, parts = sampled_feeds(seed, 5, intents)
        if not is_clear(generator, feeds):
            continue
        decoded, logits = torch_states(generator, feeds)
        for index, (constraints, sampling, intent) in enumerate(parts):
            row = row_of(generator, feeds, index, constraints, sampling, intent)
            size = row.slate_size
            slate = slate_of(decoded, index, row)
            trace = tracer.trace(row, slate, row.budget)
            states = logits[index, :size, :, : len(row.numbers)]
            assert_states(trace, states, row)
            traced += 1
            if slate.steps.any() and len(row.numbers) > K:
                with pytest.raises(AssertionError):  # every state compared with the one after it
                    assert_states(trace, np.roll(states, 1, axis=1), row)
                told_apart += 1
            free = row.constraints.pinned < 0
            last = trace.choice[np.arange(size), slate.steps]
            assert last[free].tolist() == slate.indices[free].tolist()
    assert traced >= 5
    assert told_apart >= 2


def test_the_static_graphs_are_opened_once_and_that_of_a_row_is_reported(tmp_path):
    generator, _, models = build("gru")
    tracer = tracer_of(models, tmp_path)
    feeds, ((constraints, sampling, intent), *_) = sampled_feeds(0, 5, True)
    with_intent = row_of(generator, feeds, 0, constraints, sampling, intent)
    rows = [with_intent, dataclasses.replace(with_intent, intent=None)]
    assert not any(tracer.is_open_for(row) for row in rows)
    assert tracer.open()
    assert all(tracer.is_open_for(row) for row in rows)
    assert not tracer.open()


def test_a_slate_is_traced_while_the_graph_of_others_is_opened(tmp_path, monkeypatch):
    generator, _, models = build("gru")
    tracer = tracer_of(models, tmp_path)
    go, waits = threading.Event(), threading.Event()

    def open_later(path, *arguments, **options):
        if path.name == INTENT_STATIC:
            waits.set()
            assert go.wait(60)
        return open_graph(path, *arguments, **options)

    monkeypatch.setattr("service.engine.steps.open_graph", open_later)
    opening = threading.Thread(target=tracer.open)
    opening.start()
    try:
        assert waits.wait(60)
        feeds, ((constraints, sampling, _), *_) = sampled_feeds(0, 5, False)
        row = row_of(generator, feeds, 0, constraints, sampling, None)
        slate = slate_of(torch_states(generator, feeds)[0], 0, row)
        assert tracer.trace(row, slate, row.budget).entropy.shape == (row.slate_size, 1 + S)
    finally:
        go.set()
        opening.join(60)


def explained(session, ids, **options):
    """Return a row of plain ids that takes every step, and its slate."""
    row = session.row(CandidateList(ids=ids), entropy_threshold=-1.0)
    row = dataclasses.replace(row, explain=True, **options)
    (slate,) = session.run([row])
    return row, slate


def trace_of(session, row, slate, budget=3):
    return session.tracer.trace(row, slate, budget)


def test_the_states_of_a_bundle_of_the_first_version_begin_and_end_with_its_figures():
    session = Session.load(FROZEN)
    row, slate = explained(session, [str(number) for number in range(30)])
    trace = trace_of(session, row, slate)
    last = np.arange(row.slate_size), slate.steps
    np.testing.assert_allclose(trace.entropy[:, 0], slate.entropy_before, atol=CLOSE)
    np.testing.assert_allclose(trace.entropy[last], slate.entropy_after, atol=CLOSE)
    assert np.abs(trace.entropy[:, 0] - slate.entropy_after).max() > CLOSE
    assert trace.choice[last].tolist() == slate.indices.tolist()


@pytest.fixture(scope="module")
def native(native_library, session):
    """The same bundle on the native library, with the opened graphs of the other session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_backend, "shared_library", lambda: native_library)
        loaded = Session.load(BUNDLE, backend="native")
    loaded.tracer = session.tracer
    return loaded


@pytest.mark.parametrize("intents", [False, True], ids=["plain", "intent"])
def test_slates_of_the_native_library_are_traced_too(native, session, intents):
    taken = 0
    for rows in random_batches(session, random_lists(session, 3, 1), 2, intents):
        for row, slate in zip(rows, native.run(rows), strict=True):
            trace = trace_of(native, row, slate, row.budget)
            free = np.flatnonzero(row.constraints.pinned < 0)
            last = trace.entropy[free, slate.steps[free]]
            np.testing.assert_allclose(
                trace.entropy[free, 0], slate.entropy_before[free], atol=CLOSE
            )
            np.testing.assert_allclose(last, slate.entropy_after[free], atol=CLOSE)
            taken += int(slate.steps.sum())
    assert taken > 20


def test_a_trace_that_takes_other_steps_than_the_slate_is_refused(session, items):
    row, slate = explained(session, items[:20])
    trace_of(session, row, slate)
    with pytest.raises(ModelError, match=r"steps \[3, .*: traced \[1, .* instead"):
        trace_of(session, row, slate, 1)
    other = dataclasses.replace(row, constraints=pinned_first(row, int(slate.indices[1])))
    with pytest.raises(ModelError, match=r"slate \[.*: traced \["):
        trace_of(session, other, slate)


def pinned_first(row, candidate):
    rules = SlateConstraints.none(len(row.numbers), row.slate_size)
    rules.pinned[0] = candidate
    return rules


def test_a_static_graph_that_is_changed_or_removed_after_the_start_is_refused(items, tmp_path):
    directory = shutil.copytree(BUNDLE, tmp_path / "bundle")
    session = Session.load(directory)
    row, slate = explained(session, items[:20])
    path = directory / STATIC
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"generator\.static\.onnx: SHA-256 is"):
        trace_of(session, row, slate)
    path.unlink()
    with pytest.raises(BundleError, match=r"generator\.static\.onnx: cannot be read"):
        trace_of(session, row, slate)


def test_only_outputs_are_added_to_the_graph_and_only_if_all_states_are_there():
    model = (BUNDLE / STATIC).read_bytes()
    names = state_names(model, 10, 3)
    extended = onnx.load_from_string(with_outputs(model, names))
    plain = onnx.load_from_string(model)
    outputs = [output.name for output in extended.graph.output]
    assert outputs == [*(output.name for output in plain.graph.output), *names]
    del extended.graph.output[-len(names) :]
    assert extended == plain
    with pytest.raises(ValueError, match="40 states of reasoning, expected those of 11 positions"):
        state_names(model, 11, 3)
    with pytest.raises(ValueError, match=r"40 states of reasoning, expected .* with 2 steps"):
        state_names(model, 10, 2)
