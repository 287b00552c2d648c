"""Shards that are prepared on Ray; skipped where it is not installed (deploy/ray)."""

import errno
import os
import signal

import pytest

from model.data.shards.engines import open_engine
from model.data.shards.options import ShardOptions
from model.data.shards.stages import Interruption, Stages
from tests.support.logs import digest_tree
from tests.support.shards import random_log

pytest.importorskip("ray")
ON_RAY = ShardOptions("ray", workers=2)


def end_process(_path):
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(_path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
