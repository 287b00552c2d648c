"""Signals: those that stop the service drain it, SIGHUP reloads, and the others are ignored."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from loadtest.server import serving
from service.signals import HANDLED, RELOAD, STOP, name_of
from tests.support.bundles import BUNDLE, ROOT
from tests.support.processes import metric, poll, workers_of
from tests.support.stores import copy_bundle

OLD, NEW = "the-old-key-0123456789", "the-new-key-0123456789"
IGNORED = sorted(HANDLED - STOP - RELOAD)
# The supervisor of several workers treats all stop signals alike.
STOPPED = [(number, "1") for number in sorted(STOP)] + [(signal.SIGTERM, "2"), (signal.SIGINT, "2")]


def status(server, path="/readyz", **headers):
    return httpx.get(f"{server.url}{path}", headers=headers, timeout=5).status_code


def test_the_signals_of_the_issue_are_among_the_handled_ones():
    names = {name_of(number) for number in IGNORED}
    assert {"SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO"} <= names
    assert "SIGRTMIN" in names
    assert signal.SIGKILL not in HANDLED
    assert signal.SIGSEGV not in HANDLED


@pytest.mark.parametrize(("number", "workers"), STOPPED)
def test_every_stop_signal_drains_until_a_second_one(number, workers):
    with serving(BUNDLE, "--workers", workers, drain_s=60) as server:
        server.process.send_signal(number)
        assert poll(lambda: status(server) == 503, 30)
        assert poll(lambda: server.process.poll() is not None, 0.5) is None
        assert status(server, "/livez") == 200
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        assert f"{name_of(number)} received, stopping" in server.log.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_other_signals_are_logged_and_end_no_process(workers):
    with serving(BUNDLE, "--workers", workers) as server:
        assert poll(lambda: metric(server, "rerank_workers") == int(workers), 60)
        processes = [server.process.pid, *workers_of(server)]
        for number in IGNORED:
            for pid in processes:
                os.kill(pid, number)
        names = {name_of(number) for number in IGNORED}
        assert poll(
            lambda: all(f"{n} received, ignored" in server.log.read_text() for n in names), 30
        )
        time.sleep(0.5)
        assert status(server) == 200
        assert [server.process.pid, *workers_of(server)] == processes


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_reads_keys_and_store_again(tmp_path, workers):
    store, keys = tmp_path / "models", tmp_path / "keys"
    shutil.copytree(BUNDLE, store / "ranklens" / "1")
    keys.write_text(f"shop:{OLD}\n")
    settings = {"models": store, "api_keys_file": keys, "watch_s": 0}
    with serving(BUNDLE, "--workers", workers, **settings) as server:
        assert poll(lambda: metric(server, "rerank_workers") == int(workers), 60)

        def ranked_with(key):
            body = {"candidates": ["1", "296"]}
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(f"{server.url}/rerank", json=body, headers=headers, timeout=10)

        assert ranked_with(OLD).json()["model"]["version"] == "1"
        # The change leaves size and times as they were, so that only the signal shows it.
        before = keys.stat()
        with keys.open("r+") as file:
            file.write(f"shop:{NEW}\n")
        os.utime(keys, ns=(before.st_atime_ns, before.st_mtime_ns))
        copy_bundle(store, "ranklens", "2")
        time.sleep(1.5)
        assert ranked_with(OLD).json()["model"]["version"] == "1"
        server.process.send_signal(signal.SIGHUP)

        def all_follow():
            responses = [ranked_with(NEW) for _ in range(12)]  # to both workers, all but surely
            return all(
                r.status_code == 200 and r.json()["model"]["version"] == "2" for r in responses
            )

        assert poll(all_follow, 20, every=0.2)
        assert ranked_with(OLD).status_code == 403
        assert "SIGHUP received, reading keys and store again" in server.log.read_text()
        keys.write_text("")
        server.process.send_signal(signal.SIGHUP)
        assert poll(lambda: "stay valid" in server.log.read_text(), 5)
        assert ranked_with(NEW).status_code == 200


def test_further_signals_cut_no_request_in_flight(items):
    lists = [{"candidates": items[:500]} for _ in range(64)]
    responses = []
    with serving(BUNDLE, timeout_ms=60_000) as server:

        def send_requests():
            url = f"{server.url}/rerank/batch"
            responses.append(httpx.post(url, json={"requests": lists}, timeout=30))

        thread = threading.Thread(target=send_requests)
        thread.start()
        assert poll(lambda: (metric(server, "rerank_inflight") or 0) > 0, 10)
        for _ in range(4):
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert server.process.wait(20) == 0
        thread.join()
    assert responses[0].status_code == 200
    assert len(responses[0].json()["responses"]) == 64


@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_during_the_start_end_no_process_and_a_stop_is_a_clean_end(workers, tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", "--workers", workers],
            cwd=ROOT,
            env={**os.environ, "RERANK_MISSPELT": "1", "TMPDIR": str(tmp_path)},
            stderr=file,
            start_new_session=True,
        )
    try:
        assert poll(lambda: "not a setting" in log.read_text(), 30)  # the first line of the log
        for _ in range(40):
            os.killpg(process.pid, signal.SIGHUP)
            os.killpg(process.pid, signal.SIGUSR1)
            time.sleep(0.05)
        assert process.poll() is None
        assert "died" not in log.read_text()
        assert "could not start" not in log.read_text()
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
