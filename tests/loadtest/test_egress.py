"""The service connects to nothing beyond its machine, and a process that does is reported."""

import json
import os

import pytest

from loadtest.cli import run_command
from loadtest.egress import Peers, check_tracer
from loadtest.errors import UsageError

INET = "7 connect(5, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("
INET6 = "7 connect(5, {sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), "


@pytest.fixture(scope="module")
def strace():
    try:
        check_tracer()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "line",
    [
        f'{INET}"127.0.0.53")}}, 16) = 0',
        f'{INET6}inet_pton(AF_INET6, "::1", &sin6_addr), sin6_scope_id=0}}, 28) = 0',
        f'{INET6}inet_pton(AF_INET6, "::ffff:127.0.0.1", &sin6_addr), sin6_scope_id=0}}, 28) = 0',
        '7 connect(5, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT',
        "7 sendto(5, [{nlmsg_len=20}], 20, 0, {sa_family=AF_NETLINK, nl_pid=0}, 12) = 20",
        '7 sendto(5, "HTTP/1.1 200 OK"..., 90, 0, NULL, 0) = 90',
        "7 +++ exited with 0 +++",
    ],
)
def test_calls_within_the_machine_are_no_egress(line):
    assert Peers.of([line]).beyond == []


@pytest.mark.parametrize(
    "line",
    [
        f'{INET}"10.0.0.2")}}, 16) = -1 EINPROGRESS',
        f'{INET}"1.2.3.4")}}, 16 <unfinished ...>',
        f'{INET6}inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}}, 28) = 0',
        f'{INET6}inet_pton(AF_INET6, "::ffff:8.8.8.8", &sin6_addr), sin6_scope_id=0}}, 28) = 0',
        '7 sendto(5, "x", 1, 0, {sa_family=AF_INET, sin_addr=inet_addr("10.0.0.2")}, 16) = 1',
        "7 connect(5, {sa_family=AF_VSOCK, svm_cid=0x2, svm_port=0x50}, 16) = 0",
    ],
)
def test_calls_beyond_the_machine_are_egress(line):
    peers = Peers.of([line])
    assert peers.beyond == [line]
    assert peers.families.total() == 1


def measure(tmp_path, workers):
    """Return the exit status and the report of a short run."""
    out = tmp_path / "egress.json"
    arguments = ["--requests", "200", "--workers", workers, "--idle", "0", "--out", str(out)]
    status = run_command("egress", arguments)
    return status, json.loads(out.read_text("utf-8"))


def test_the_service_connects_to_nothing_beyond_its_machine(strace, tmp_path):
    status, report = measure(tmp_path, "2")
    assert (status, report["calls_beyond_this_machine"], report["failures"]) == (0, 0, {})
    assert report["requests"] == 200
    assert report["traced_threads"] >= 3  # the supervisor and two workers


def test_a_service_that_connects_is_reported(strace, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:\n"
        "    out.connect(('127.0.0.1', 9))\n"
        "    try:\n"
        "        out.connect(('192.0.2.7', 9))\n"
        "    except OSError:\n"
        "        pass\n"
    )
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), path])))
    status, report = measure(tmp_path, "1")
    assert status == 1
    assert report["calls_beyond_this_machine"] >= 1
    assert "192.0.2.7" in report["examples"][0]
    assert report["calls_by_family"]["INET"] >= 2


def test_without_strace_the_command_ends_with_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_command("egress", ["--requests", "1"]) == 2
    assert "strace: not installed" in capsys.readouterr().err
