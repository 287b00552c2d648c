"""The pieces of the CUDA path that a CPU can run: buckets, padding, bound buffers."""

import dataclasses

import numpy as np
import pytest

from service.contract import OUTPUTS, STATIC
from service.cuda import BATCHES, SIZES, CudaRunner, bucket, padded, shape_of
from service.features import Request
from service.session import Sampling, collate, open_graph
from tests.service.conftest import BUNDLE


@pytest.fixture(scope="module")
def static():
    return open_graph(BUNDLE / STATIC, 1, "cpu")


@pytest.fixture
def feeds(session, items):
    """Lists of 40 and 7, the second with three sampled slates."""
    rows = [session.row(Request(ids=items[:40])), session.row(Request(ids=items[40:47]))]
    rows[1] = dataclasses.replace(rows[1], sampling=Sampling(3, seed=1))
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
        given = padded(feeds, bigger, session.manifest.slate_length)
        found = static.run(list(OUTPUTS)[:5], given)
        for one, other in zip(plain, found, strict=True):
            np.testing.assert_allclose(one, other[: len(one)], rtol=0, atol=1e-5)
    broken = padded(feeds, wide, session.manifest.slate_length)
    broken["mask"][0, 40:] = broken["quota"][0, 40:] = True  # padding taken for candidates
    assert not np.array_equal(static.run(["slate"], broken)[0][:4], plain[0])


def test_bound_buffers_answer_as_a_plain_run_bucket_by_bucket(session, static, items, feeds):
    runner = CudaRunner(static, session.manifest.slate_length, device="cpu")
    names = list(OUTPUTS)
    other = collate([session.row(Request(ids=items[:9]))], session.manifest.slate_length)
    for given in (feeds, other, feeds):
        for bound, plain in zip(runner.run(names, given), static.run(names, given), strict=True):
            np.testing.assert_allclose(bound, plain, rtol=0, atol=1e-5)
    assert [shape.size for shape in runner.buckets] == [64, 32]  # the third run found the first's


def test_cuda_is_asked_for_alone_so_that_nothing_falls_back():
    ((name, options),) = CudaRunner.providers(capture=True)
    assert name == "CUDAExecutionProvider"
    assert options["enable_cuda_graph"] == "1"
    ((_, plain),) = CudaRunner.providers(capture=False)
    assert plain["enable_cuda_graph"] == "0"
    assert int(options["gpu_mem_limit"]) > 0
