"""The parts of the CUDA path that a CPU can run: buckets, padding, bound buffers."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.engine.buckets import BATCHES, SIZES, bucket
from service.engine.collate import collate
from service.engine.contract import EVALUATOR, INTENT_STATIC, OUTPUTS, STATIC
from service.engine.cuda import CudaRunner, pad, shape_of, warm_up_sizes
from service.engine.features.candidates import CandidateList
from service.engine.graph import open_graph
from service.engine.intent import DiversityTerm, build_intent
from service.engine.rows import SlateSampling
from service.engine.session import Session
from tests.support.bundles import BUNDLE, ROOT


@pytest.fixture(scope="module")
def static():
    return open_graph(BUNDLE / STATIC, 1, "cpu")


@pytest.fixture
def feeds(session, items):
    """Lists of 40 and 7, the second with three sampled slates."""
    rows = [
        session.row(CandidateList(ids=items[:40])),
        session.row(CandidateList(ids=items[40:47])),
    ]
    rows[1] = dataclasses.replace(rows[1], sampling=SlateSampling(3, seed=1))
    return collate(rows, session.manifest.slate_length)


@pytest.mark.parametrize(
    ("value", "buckets", "expected"),
    [(1, BATCHES, 1), (3, BATCHES, 4), (64, BATCHES, 64), (65, BATCHES, 128), (513, SIZES, 1024)],
)
def test_a_bucket_is_the_smallest_that_holds(value, buckets, expected):
    assert bucket(value, buckets) == expected


def test_padding_to_a_bucket_changes_no_slate(session, static, feeds):
    shape = shape_of(feeds)
    assert (shape.lists, shape.slates, shape.size, shape.sampled) == (2, 4, 64, True)
    wide = dataclasses.replace(shape, lists=4, slates=8, size=128)
    plain = static.run(list(OUTPUTS)[:5], feeds)
    for bigger in (shape, wide):
        padded = pad(feeds, bigger, session.manifest.slate_length)
        outputs = static.run(list(OUTPUTS)[:5], padded)
        for one, other in zip(plain, outputs, strict=True):
            np.testing.assert_allclose(one, other[: len(one)], rtol=0, atol=1e-5)
    broken = pad(feeds, wide, session.manifest.slate_length)
    broken["mask"][0, 40:] = broken["quota"][0, 40:] = True  # candidates that are padding
    assert not np.array_equal(static.run(["slate"], broken)[0][:4], plain[0])


def test_bound_buffers_give_the_outputs_of_a_plain_run(session, static, items, feeds):
    runner = CudaRunner(static, session.manifest.slate_length, device="cpu")
    names = list(OUTPUTS)
    other = collate([session.row(CandidateList(ids=items[:9]))], session.manifest.slate_length)
    for batch in (feeds, other, feeds):
        for bound, plain in zip(runner.run(names, batch), static.run(names, batch), strict=True):
            np.testing.assert_allclose(bound, plain, rtol=0, atol=1e-5)
    assert [shape.size for shape in runner.buckets] == [
        64,
        32,
    ]  # the third reuses the first


def test_rows_with_an_intent_run_in_the_devices_thread_on_the_static_graph_of_intent(
    session, static, items, monkeypatch
):
    graph, threads = open_graph(BUNDLE / INTENT_STATIC, 1, "cpu"), set()

    class Watched:
        def run(self, names, feeds):
            threads.add(threading.current_thread().name)
            return graph.run(names, feeds)

    evaluator = open_graph(BUNDLE / EVALUATOR, 1, "cpu")
    monkeypatch.setattr(Session, "provider", "CUDAExecutionProvider")
    on_gpu = Session(session.manifest, session.featuriser, static, evaluator, Watched())
    row = session.row(CandidateList(ids=items[:40]))
    intent = build_intent(
        [DiversityTerm("genres", 1.0, 0.5, "sum")], [session.values("genres", row)]
    )
    rows = [dataclasses.replace(row, intent=intent), row]
    for one, other in zip(on_gpu.run(rows), session.run(rows), strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        np.testing.assert_allclose(one.logprob, other.logprob, rtol=0, atol=1e-5)
    assert [name.split("_")[0] for name in threads] == ["cuda"]


@pytest.mark.parametrize(("lists", "candidates"), [(1, 10), (16, 500), (20, 128), (64, 512)])
def test_warm_up_runs_once_in_each_bucket_that_a_request_can_need(lists, candidates):
    sizes = warm_up_sizes(lists, candidates)
    assert len(set(sizes)) == len(sizes)
    buckets = {(bucket(a, BATCHES), bucket(n, SIZES)) for a, n in sizes}
    assert len(buckets) == len(sizes)
    assert buckets == {
        (bucket(a, BATCHES), bucket(n, SIZES))
        for a in range(1, lists + 1)
        for n in range(1, candidates + 1)
    }
    assert max(sizes) == (lists, candidates)


def test_warm_up_on_cuda_captures_the_buckets_and_times_one_budget(session, static):
    class Cuda(Session):
        provider = "CUDAExecutionProvider"

    evaluator = open_graph(BUNDLE / EVALUATOR, 1, "cpu")
    cuda = Cuda(session.manifest, session.featuriser, static, evaluator)
    runner = CudaRunner(static, session.manifest.slate_length, device="cpu")
    cuda._run = runner.run
    timings = cuda.warm_up([1, 4], 40)
    assert {(t.budget, t.volume) for t in timings} == {(3, 40), (3, 160)}
    greedy = {(s.lists, s.size) for s in runner.buckets if not s.sampled}
    assert greedy == {(a, n) for a in (1, 2, 4) for n in SIZES}
    assert {t.budget for t in session.warm_up([1, 4], 40)} == {0, 3}


class Watched:
    """A session or its binding that records the thread of each run."""

    def __init__(self, session, threads):
        self._session, self._threads = session, threads

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run(self, *arguments):
        self._threads.append(threading.current_thread())
        return self._session.run(*arguments)

    def run_with_iobinding(self, *arguments):
        self._threads.append(threading.current_thread())
        return self._session.run_with_iobinding(*arguments)


def test_one_thread_makes_every_run_on_a_gpu(session, static, items):
    """Graphs are captured by thread: another thread would have to capture them again."""

    class Cuda(Session):
        provider = "CUDAExecutionProvider"

    threads: list[threading.Thread] = []
    graphs = static, open_graph(BUNDLE / EVALUATOR, 1, "cpu")
    cuda = Cuda(session.manifest, session.featuriser, *(Watched(g, threads) for g in graphs))
    runner = CudaRunner(Watched(static, threads), session.manifest.slate_length, device="cpu")
    cuda._run = runner.run
    row = session.row(CandidateList(ids=items[:20]))
    rows = [row, dataclasses.replace(row, sampling=SlateSampling(2, seed=0))]
    with ThreadPoolExecutor(4) as callers:
        slates = list(callers.map(lambda _: cuda.run(rows), range(8)))
    cuda.warm_up([1], 20)
    assert len(threads) > 16
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    expected = session.run(rows)[0].indices.tolist()
    assert all(batch[0].indices.tolist() == expected for batch in slates)


def test_the_cuda_provider_is_the_only_one_so_that_no_graph_falls_back():
    ((name, options),) = CudaRunner.providers(capture=True)
    assert name == "CUDAExecutionProvider"
    assert options["enable_cuda_graph"] == "1"
    ((_, plain),) = CudaRunner.providers(capture=False)
    assert plain["enable_cuda_graph"] == "0"
    assert int(options["gpu_mem_limit"]) > 0


def test_feeds_of_the_old_contract_are_padded_and_bound_too(items):
    old = ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1"
    session, static = Session.load(old), open_graph(old / STATIC, 1, "cpu")
    positions = session.manifest.slate_length
    feeds = collate([session.row(CandidateList(ids=items[:9]))], positions)
    assert "tokens" in feeds
    names = list(OUTPUTS)
    bound = CudaRunner(static, positions, device="cpu").run(names, feeds)
    for one, other in zip(bound, static.run(names, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
