"""Jobs in waves: order, failures and Ctrl-C."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.study.pool import run_waves
from tests.support.processes import poll

ROOT = Path(__file__).parents[3]


def test_a_failing_job_raises_before_waiting_jobs_begin(tmp_path):
    fails = functools.partial(os.remove, tmp_path / "absent")
    began = time.monotonic()
    with pytest.raises(FileNotFoundError, match="absent"):
        run_waves([("jobs", [fails, *[functools.partial(time.sleep, 5)] * 40])])
    assert time.monotonic() - began < 60  # the 40 would take 100 s and more on two cores


def test_a_wave_begins_after_the_one_before_has_ended(tmp_path):
    made, moved = tmp_path / "made", tmp_path / "moved"
    run_waves([
        ("make", [functools.partial(made.touch)]), ("move", [functools.partial(made.rename, moved)])
    ])  # fmt: skip
    assert moved.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_the_process_that_runs_the_waves_is_killed(tmp_path, number):
    code = (
        "import functools, os, pathlib, sys, time\n"
        "from model.study.pool import run_waves\n"
        "def job(directory):\n"
        "    (pathlib.Path(directory) / str(os.getpid())).touch()\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    run_waves([('jobs', [functools.partial(job, sys.argv[1])] * 2)])"
    )
    (tmp_path / "work.py").write_text(code, encoding="utf-8")
    (tmp_path / "pids").mkdir()
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "work.py"), str(tmp_path / "pids")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    workers = min(2, os.cpu_count() or 1)
    while len(pids := [int(p.name) for p in (tmp_path / "pids").iterdir()]) < workers:
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(number)
    assert run.wait() == -number
    ended = poll(lambda: not any(map(is_running, pids)), 30.0)
    for pid in filter(is_running, pids):
        os.kill(pid, signal.SIGKILL)
    assert ended


def is_running(pid):
    """Return whether a process has not ended; one that nobody waits for stays as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_terminates_running_jobs_and_begins_no_other(tmp_path):
    code = (
        "import functools, pathlib, sys, time\n"
        "from model.study.pool import run_waves\n"
        "if __name__ == '__main__':\n"
        "    begun = functools.partial(pathlib.Path(sys.argv[1]).touch)\n"
        "    run_waves([('jobs', [begun]), ('jobs', [functools.partial(time.sleep, 60)] * 8)])"
    )
    (tmp_path / "work.py").write_text(code, encoding="utf-8")
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "work.py"), str(tmp_path / "begun")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "begun").exists() and run.poll() is None:
        time.sleep(0.1)
    time.sleep(1.0)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, errors = run.communicate(timeout=50)  # less than one job takes
    assert run.returncode != 0, errors
