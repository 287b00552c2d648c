"""The share of each process of a service in its connections."""

import json
import os
import socket
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.balance import connections_by_process
from loadtest.cli import run_command
from loadtest.server import Server

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")


def test_only_accepted_connections_to_the_port_of_a_service_are_counted():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process: Any = SimpleNamespace(pid=os.getpid())
        server = Server(process, f"http://127.0.0.1:{port}", Path())
        assert connections_by_process(server) == []
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        accepted = [listener.accept()[0] for _ in range(2)]
        assert connections_by_process(server) == [2]
        for connection in (*clients, *accepted):
            connection.close()


def test_the_turns_of_each_service_are_reported(tmp_path):
    out = tmp_path / "balance.json"
    arguments = ["--connections", "4", "--rate", "20", "--seconds", "0.5", "--rounds", "1"]
    assert run_command("balance", [*arguments, "--out", str(out)]) == 0
    two_workers, one_process = json.loads(out.read_text())["rows"]
    assert sum(two_workers["connections"][0]) == 4
    assert one_process["connections"] == [[4]]
    for row in (two_workers, one_process):
        assert 0 < row["p50_ms"][0] <= row["p99_ms"][0]


def test_a_rate_of_zero_is_refused(capsys):
    assert run_command("balance", ["--rate", "0"]) == 2
    assert "--rate" in capsys.readouterr().err


def test_the_balance_of_the_documentation_is_that_of_the_report():
    report = json.loads((ROOT / "docs" / "reports" / "balance.json").read_text())
    page = (ROOT / "docs" / "decisions" / "worker-balance.md").read_text(encoding="utf-8")
    for row in report["rows"]:
        commit = report["commits"].get(row["case"])
        cells = [row["case"] if commit is None else f"commit {commit}"]
        busiest = [max(counts) for counts in row["connections"]]
        for values in (busiest, row["p50_ms"], row["p99_ms"]):
            cells.append(f"{median(values):.0f} [{min(values):.0f}, {max(values):.0f}]")
        assert f"| {' | '.join(cells)} |" in page
