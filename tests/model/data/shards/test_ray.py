"""Shards that are prepared on Ray; skipped where it is not installed (deploy/ray)."""

import errno
import importlib
import os
import signal

import pytest

from model.data.errors import DataError
from model.data.shards.engines import open_engine
from model.data.shards.options import ShardOptions
from model.data.shards.stages import Interruption, Stages
from tests.support.logs import digest_tree
from tests.support.shards import random_log

pytest.importorskip("ray")
ray_engine = importlib.import_module("model.data.shards.ray_engine")
ON_RAY = ShardOptions("ray", workers=2)


def end_process(_path):
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(_path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("seconds", "address", "reason"),
    [
        (3.0, "127.0.0.1:6", "none responded within 3 s"),
        (60.0, "no address", "no address"),  # refused by Ray itself
    ],
)
def test_an_address_without_a_cluster_is_refused_by_name(monkeypatch, seconds, address, reason):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray_engine, "CONNECT_S", seconds)
    match = f"RAY_ADDRESS: must name a running Ray cluster; .*{reason}"
    with pytest.raises(DataError, match=match), open_engine(ON_RAY):
        pytest.fail("opened")


def test_two_workers_of_ray_write_the_bytes_of_one_process(prepare, monkeypatch):
    log = random_log()
    one = digest_tree(prepare("one", log, 3))
    assert digest_tree(prepare("on ray", log, 3, engine="ray", workers=2)) == one
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_failures_on_ray_are_named_with_a_way_out(tmp_path):
    with open_engine(ON_RAY) as engine:
        stages = Stages(tmp_path / "work", engine, tmp_path / "out")
        with pytest.raises(Interruption, match="stage end a Ray worker ended without a result"):
            stages.run("end", end_process, {"a": ()})
        with pytest.raises(Interruption, match="disk is full at stage fill; free some space"):
            stages.run("fill", fill_disk, {"a": ()})
