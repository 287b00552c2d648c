"""Workers that die, hang or cannot start: the others go on, and metrics and log say so."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx
import pytest

from loadtest.server import serving
from service.settings import Settings
from service.shared_values import SharedValues
from service.supervisor import Place, Worker
from tests.support.bundles import BUNDLE, ROOT
from tests.support.processes import both_serve, metric, poll, total, workers_of

KEY = "a-key-of-the-shop-0123456789"
PATIENT = {"timeout_ms": 60_000, "watch_s": 0}
BODY = {"candidates": ["1", "296", "318"]}


def rank(server):
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{server.url}/rerank"
    return httpx.post(url, json=BODY, headers=headers, timeout=10).status_code


class Fault:
    """A change that keeps a worker from starting, and its repair."""

    def __init__(self, name, directory):
        self.name, self.store = name, directory / "models"
        self.bundle = self.store / "ranklens" / "1"
        shutil.copytree(BUNDLE, self.bundle)
        self.serving = self.store / "ranklens" / "serving.json"
        self.serving.write_text(json.dumps({"active": "1"}))
        self.files = {name: directory / name for name in ("api_keys_file", "admin_keys_file")}
        for path in self.files.values():
            path.write_text(f"shop:{KEY}\n")

    def settings(self):
        return {**PATIENT, **self.files, "models": self.store}

    def cause(self, supervisor):
        """Cause the fault; return the label of its failures and a part of their message."""
        match self.name:
            case "bundle moved":
                self.bundle.rename(self.store.parent / "moved")
                return "bundle", "no bundle"
            case "serving.json half written":
                self.serving.write_text('{"active": "1')
                return "bundle", "serving.json"
            case "golden request modified":
                self.golden = (self.bundle / "golden.json").read_bytes()
                (self.bundle / "golden.json").write_bytes(b"[]")
                return "bundle", "golden.json"
            case "no process can be started":
                self.limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
                resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, self.limits[1]))
                return "system", "Too many open files"
        self.files[self.name].write_text("")
        return "keys", self.name

    def repair(self, supervisor):
        match self.name:
            case "bundle moved":
                (self.store.parent / "moved").rename(self.bundle)
            case "serving.json half written":
                self.serving.write_text(json.dumps({"active": "1"}))
            case "golden request modified":
                (self.bundle / "golden.json").write_bytes(self.golden)
            case "no process can be started":
                resource.prlimit(supervisor, resource.RLIMIT_NOFILE, self.limits)
            case _:
                self.files[self.name].write_text(f"shop:{KEY}\n")


@pytest.mark.parametrize(
    ("name", "repaired_by"),
    [("bundle moved", "SIGHUP"), ("api_keys_file", "waiting"),
     ("serving.json half written", "waiting"), ("golden request modified", "waiting"),
     ("no process can be started", "waiting")],
)  # fmt: skip
def test_a_replacement_that_cannot_start_ends_no_other_worker(tmp_path, name, repaired_by):
    fault = Fault(name, tmp_path)
    with serving(BUNDLE, "--workers", "2", **fault.settings()) as server:
        assert poll(lambda: both_serve(server), 60)
        supervisor = server.process.pid
        assert [rank(server) for _ in range(10)] == [200] * 10
        ranked = metric(server, "rerank_requests_total")
        reason, message = fault.cause(supervisor)
        victim, survivor = workers_of(server)
        os.kill(victim, signal.SIGKILL)
        failures = f'rerank_worker_start_failures_total{{reason="{reason}"}}'
        assert poll(lambda: (metric(server, failures) or 0) >= 1, 60)
        assert survivor in workers_of(server)
        assert [rank(server) for _ in range(10)] == [200] * 10
        page = httpx.get(f"{server.url}/metrics").text
        assert (total(page, "rerank_workers"), total(page, "rerank_workers_configured")) == (1, 2)
        assert total(page, "rerank_worker_restarts_total") == 1
        text = poll(lambda: (log := server.log.read_text()).count("could not start") and log, 30)
        (line, *_) = [line for line in text.splitlines() if "a worker could not start" in line]
        assert message in line
        assert "1 of 2 workers serve, next try in" in line
        fault.repair(supervisor)
        if repaired_by == "SIGHUP":
            server.process.send_signal(signal.SIGHUP)
        assert poll(lambda: both_serve(server), 60)
        assert survivor in workers_of(server)
        assert metric(server, "rerank_requests_total") == ranked + 10
        server.process.terminate()
        assert server.process.wait(20) == 0


def test_the_back_off_grows_to_half_a_minute():
    place = Place(slot=1)
    assert [place.fail() for _ in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def die_after_a_beat(settings, listener, shared, slot, sender):
    shared.slots[slot].open()
    shared.slots[slot].beat()
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_a_beat(settings, listener, shared, slot, sender):
    shared.slots[slot].open()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("main", "served"), [(die_after_a_beat, True), (die_before_a_beat, False)])
def test_a_worker_that_dies_within_a_tick_of_its_first_heartbeat_has_served(main, served):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = Worker(main, Settings(), listener, SharedValues.create(1), slot=1)
        worker.process.join()
        assert worker.has_ended()
        assert (worker.served_since is not None) == served
        assert worker.end() == ("killed", "SIGKILL")


def test_a_worker_is_replaced_without_profile_and_temporary_directory(tmp_path, monkeypatch):
    temporary, profile = tmp_path / "tmp", tmp_path / "profile.json"
    temporary.mkdir()
    profile.write_text(json.dumps({"threads": 1, "spinning": False, "max_batch_size": 5}))
    monkeypatch.setenv("TMPDIR", str(temporary))
    with serving(BUNDLE, "--workers", "2", **PATIENT, profile=profile) as server:
        assert poll(lambda: both_serve(server), 60)
        assert [rank(server) for _ in range(10)] == [200] * 10
        profile.unlink()
        for path in temporary.glob("*/*.db"):  # files of metrics, of which there are none
            path.unlink()
        shutil.rmtree(temporary, ignore_errors=True)
        before = workers_of(server)
        os.kill(before[0], signal.SIGKILL)
        assert poll(lambda: set(workers_of(server)) - set(before), 60)
        assert poll(lambda: metric(server, "rerank_worker_restarts_total") == 1, 60)
        assert poll(lambda: both_serve(server), 60)
        assert [rank(server) for _ in range(10)] == [200] * 10
        assert metric(server, "rerank_requests_total") == 20
        assert httpx.get(f"{server.url}/info").json()["max_batch_size"] == 5
        assert metric(server, "rerank_worker_start_failures_total") == 0


HASTY = """
import sys
import service.supervisor
service.supervisor.{constant} = 2.0
from service.__main__ import main
sys.exit(main())
"""


@contextlib.contextmanager
def hasty(constant, bundle):
    """Run a service of two workers with another value of a constant of the supervisor."""
    process = subprocess.Popen(
        [sys.executable, "-c", HASTY.format(constant=constant), "--port", "0", "--workers", "2",
         "--bundle", str(bundle)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "serving" in line)
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+", line)
        server = SimpleNamespace(process=process, url=url)
        assert poll(lambda: both_serve(server), 20)
        yield server
    finally:
        process.kill()
        process.communicate()


@pytest.mark.alone
def test_a_service_without_workers_that_can_start_ends_with_status_2(tmp_path):
    shutil.copytree(BUNDLE, tmp_path / "1")
    with hasty("UNSERVED_S", tmp_path / "1") as server:
        (tmp_path / "1").rename(tmp_path / "moved")
        killed = time.monotonic()
        for pid in workers_of(server):
            os.kill(pid, signal.SIGKILL)
        assert server.process.wait(30) == 2
        assert time.monotonic() - killed > 2
        last = server.process.stderr.read().splitlines()[-1]
    assert last.startswith("service: no worker has served for 2 s and none can start: ")
    assert "manifest.json" in last


@pytest.mark.alone
def test_a_worker_that_hangs_is_killed_and_replaced():
    with hasty("HUNG_S", BUNDLE) as server:
        hung, healthy = workers_of(server)
        os.kill(hung, signal.SIGSTOP)
        assert poll(lambda: hung not in workers_of(server), 20)
        assert poll(lambda: len(workers_of(server)) == 2, 5)
        assert healthy in workers_of(server)
        assert poll(lambda: both_serve(server), 60)
        assert metric(server, "rerank_worker_restarts_total") == 1


@pytest.mark.alone
def test_a_pause_of_the_whole_service_makes_no_worker_hang():
    with hasty("HUNG_S", BUNDLE) as server:
        processes = [server.process.pid, *workers_of(server)]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in processes:
                os.kill(pid, number)
            time.sleep(3)
        assert workers_of(server) == processes[1:]
