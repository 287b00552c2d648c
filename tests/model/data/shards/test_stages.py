"""Interrupted runs go on where they ended, and failures outside of the log are explained."""

import errno
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from model.data.errors import DataError
from model.data.shards import unfinished
from model.data.shards.engines import SerialEngine, open_engine
from model.data.shards.options import ShardOptions
from model.data.shards.stages import Interruption, Stages, is_full, run_task
from tests.support.logs import digest_tree
from tests.support.shards import random_log


def write_name(path, name):
    (path / "name").write_text(name)
    return name.upper()


def end_process(_path):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse_value(path):
    raise DataError(path, "must be at least 0", row=3, column="age", value=-1)


def fill_disk(_path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class CountingEngine(SerialEngine):
    """Ends a run with KeyboardInterrupt before one of its tasks."""

    def __init__(self, last=None):
        self.done, self.last = 0, last

    def map(self, function, tasks):
        for index, task in enumerate(tasks):
            if self.done == self.last:
                raise KeyboardInterrupt
            self.done += 1
            yield index, function(*task)


@pytest.fixture
def run(prepare, monkeypatch):
    """Return a function that prepares a log with a CountingEngine and returns the engine."""
    log = random_log(lists=60)

    def prepare_with(name, last=None, **options):
        engine = CountingEngine(last)

        @contextmanager
        def opened(_options):
            yield engine

        monkeypatch.setattr("model.data.shards.unfinished.open_engine", opened)
        try:
            prepare(name, log, 3, **options)
        except KeyboardInterrupt:
            assert last is not None
        return engine

    return prepare_with


def test_an_interrupted_run_goes_on_with_the_tasks_that_are_left(run, tmp_path):
    total = run("whole").done
    for last in (1, total // 2, total - 1):
        assert run("out", last).done == last
        assert not (tmp_path / "out").exists()
        assert (tmp_path / "out.unfinished").is_dir()
        assert run("out").done == total - last
        assert not (tmp_path / "out.unfinished").exists()
        assert digest_tree(tmp_path / "out") == digest_tree(tmp_path / "whole")
        (tmp_path / "out").rename(tmp_path / f"out {last}")


def test_an_interrupted_run_leaves_the_data_set_of_before(run, tmp_path):
    run("out")
    before = digest_tree(tmp_path / "out")
    run("out", 1, split="last-list")
    assert digest_tree(tmp_path / "out") == before


def test_other_options_begin_anew(run):
    total = run("whole").done
    run("out", total - 1)
    assert run("out", split="last-list").done == total


def test_a_changed_log_begins_anew(run, tmp_path):
    total = run("whole").done
    run("out", total - 1)
    os.utime(tmp_path / "log.parquet", (1, 1))
    assert run("out").done == total


def test_a_directory_of_another_origin_is_not_removed(run, tmp_path):
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "notes").write_text("mine")
    with pytest.raises(DataError, match=r"out\.unfinished: must be absent or left by an interr"):
        run("out")
    assert (tmp_path / "out.unfinished" / "notes").read_text() == "mine"


def test_finished_tasks_outlive_an_engine_that_cannot_be_opened(run, prepare, monkeypatch):
    total = run("whole").done
    run("out", total - 1)
    monkeypatch.setattr("model.data.shards.unfinished.open_engine", open_engine)
    monkeypatch.setitem(sys.modules, "model.data.shards.ray_engine", None)
    with pytest.raises(DataError, match="--engine ray: needs Ray"):
        prepare("out", None, 3, engine="ray")
    assert run("out").done == 1


def begin_to_remove(path, **_):
    """Remove one entry, a file if there is one, and end like a run that is killed."""
    first = min(path.iterdir(), key=Path.is_dir)
    shutil.rmtree(first) if first.is_dir() else first.unlink()
    raise KeyboardInterrupt


@pytest.mark.parametrize("split", [None, "last-list"])
def test_a_run_that_was_killed_while_it_removed_its_tasks_begins_anew(
    run, tmp_path, monkeypatch, split
):
    total = run("whole", split=split).done
    run("out", total - 1)
    last = 1 if split is None else 0  # with other options the tasks are removed before the run
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "shutil", SimpleNamespace(rmtree=begin_to_remove))
        assert run("out", last=2, split=split).done == last
    assert (tmp_path / "out").exists() is (split is None)  # complete before its tasks are removed
    assert run("out", split=split).done == total
    assert digest_tree(tmp_path / "out") == digest_tree(tmp_path / "whole")


def test_a_run_that_was_killed_before_it_wrote_its_key_is_recognised(run, tmp_path):
    (tmp_path / "out.unfinished").mkdir()
    assert run("out").done
    assert not (tmp_path / "out.unfinished").exists()


def test_a_task_without_a_result_runs_again_in_an_empty_directory(tmp_path):
    stages = Stages(tmp_path / "work", SerialEngine(), tmp_path / "out")
    (stages.path("names", "a")).mkdir(parents=True)
    (stages.path("names", "a") / "half").write_text("written")
    assert stages.run("names", write_name, {"a": ("tea",)}) == {"a": "TEA"}
    assert sorted(path.name for path in stages.path("names", "a").iterdir()) == [
        "name",
        "result.json",
    ]


def test_a_worker_that_dies_is_named_with_a_way_out(tmp_path):
    with open_engine(ShardOptions("local", 2)) as engine:
        stages = Stages(tmp_path / "work", engine, tmp_path / "out")
        rule = r"out: cannot go on: at stage end a worker .* pass fewer --workers .*0 of 1 tasks"
        with pytest.raises(Interruption, match=rule):
            stages.run("end", end_process, {"a": ()})


def test_a_full_disk_is_named_with_a_way_out(tmp_path):
    stages = Stages(tmp_path / "work", SerialEngine(), tmp_path / "out")
    rule = "out: must have room .* disk is full at stage deal; free some space .*0 of 1 tasks"
    with pytest.raises(Interruption, match=rule):
        stages.run("deal", fill_disk, {"a": ()})


def test_a_disk_that_fills_up_between_the_stages_is_named_too(run, tmp_path, monkeypatch):
    def fill(*_):
        raise pl.exceptions.ComputeError("No space left on device (os error 28)")

    monkeypatch.setattr("model.data.prepare.write_tables", fill)
    with pytest.raises(Interruption, match=r"disk is full at stage tables; .*stages are kept"):
        run("out")
    assert (tmp_path / "out.unfinished").is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_error_of_polars_about_a_full_disk_is_recognised():
    with pytest.raises((OSError, pl.exceptions.PolarsError)) as caught:
        pl.DataFrame({"a": range(100_000)}).lazy().sink_parquet("/dev/full")
    assert is_full(caught.value)
    with pytest.raises((OSError, pl.exceptions.PolarsError)) as caught:
        pl.DataFrame({"a": [1]}).write_parquet("/no such directory/a.parquet")
    assert not is_full(caught.value)


def test_an_error_of_a_task_is_raised_as_it_is(tmp_path):
    stages = Stages(tmp_path / "work", SerialEngine(), tmp_path / "out")
    with pytest.raises(IsADirectoryError):
        stages.run("read", Path.read_text, {"a": ()})


def test_an_error_about_the_data_in_a_worker_process_is_raised_as_it_is(tmp_path):
    with open_engine(ShardOptions("local", 2)) as engine:
        stages = Stages(tmp_path / "work", engine, tmp_path / "out")
        with pytest.raises(DataError, match=r"a, row 3, column age: must be at least 0, got -1$"):
            stages.run("read", refuse_value, {"a": ()})


def test_a_local_pool_returns_the_result_of_each_task(tmp_path):
    with open_engine(ShardOptions("local", 2)) as engine:
        tasks = [(write_name, tmp_path / name, (name,)) for name in "abc"]
        results = dict(engine.map(run_task, tasks))
    assert results == {0: {"value": "A"}, 1: {"value": "B"}, 2: {"value": "C"}}


def test_a_missing_ray_is_named_with_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "model.data.shards.ray_engine", None)
    with pytest.raises(DataError, match="--engine ray: needs Ray; install deploy/ray/requirem"):
        open_engine(ShardOptions("ray")).__enter__()


def test_a_machine_that_assigns_no_processors_counts_all_of_them(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert ShardOptions().count_workers() == os.cpu_count()


def test_numbers_below_one_are_refused():
    with pytest.raises(DataError, match="--workers: must be at least 1, got 0"):
        ShardOptions(workers=0)
    with pytest.raises(DataError, match="--shards: must be at least 1, got 0"):
        ShardOptions(shards=0)


def test_only_longer_logs_have_shards_by_default():
    assert ShardOptions().count_shards(4_000_000, 16) is None
    assert ShardOptions().count_shards(4_000_001, 16) == 5
    assert ShardOptions().count_shards(4_000_000, 160) == 39
    assert ShardOptions().count_shards(4_000_000_000, 16) == 500
    assert ShardOptions(shards=2).count_shards(10, 16) == 2
