"""Nothing leaves the machine: no process of the project connects beyond it by itself."""

import ast
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from tests.support import isolated
from tests.support.bundles import ROOT

PACKAGES = ("service", "export", "model", "peers")
TELEMETRY = "ORT_DISABLE_TELEMETRY"
# The longest that onnxruntime waited before it sent something was 9 s, after a start of some more.
IDLE_S = 25
PYTHON = sys.executable

needs_namespaces = pytest.mark.skipif(
    not isolated.available(), reason="needs unprivileged network namespaces"
)


def is_silent(record):
    return (record["names"], record["connections"], record["unroutable"]) == ([], [], 0)


@needs_namespaces
def test_connections_out_of_the_namespace_are_recorded():
    code = """
import socket
with socket.create_connection(("telemetry.example", 443)) as connection:
    connection.sendall(b"abc")
    connection.recv(1)
try:
    socket.create_connection(("192.0.2.1", 443))
except OSError:
    pass
"""
    record = isolated.run([PYTHON, "-c", code], 0)
    assert set(record["names"]) == {"telemetry.example"}
    assert record["connections"] == [[443, b"abc".hex()]]
    assert record["unroutable"] > 0
    assert not is_silent(record)


COMMANDS = {
    "one worker": ["-m", "service", "--port", "0"],
    "two workers": ["-m", "service", "--port", "0", "--workers", "2"],
    "export": ["-c", "import time, export.tune, export.bundle; time.sleep(60)"],
    "a peer": ["-c", "import time, peers.work; time.sleep(60)"],
    "training": ["-c", "import time, model.learning.evaluate; time.sleep(60)"],
}


@pytest.mark.long
@needs_namespaces
def test_no_process_of_the_project_connects_to_anything_by_itself(tmp_path):
    def watch(name):
        home = tmp_path / name
        home.mkdir()
        return isolated.run([PYTHON, *COMMANDS[name]], IDLE_S, home, PYTHONPATH=str(ROOT))

    with ThreadPoolExecutor() as pool:
        records = dict(zip(COMMANDS, pool.map(watch, COMMANDS), strict=True))
    assert {name: record for name, record in records.items() if not is_silent(record)} == {}
    for name in ("one worker", "two workers"):
        assert "serving" in records[name]["output"]
        assert records[name]["status"] == 0
    assert not list(tmp_path.rglob("Microsoft"))  # where onnxruntime keeps its device id


# Starts a service, asks it for its health and stops it.
REQUESTS = """
import re, subprocess, sys, urllib.request
command = [sys.executable, "-m", "service", "--port", "0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
    line = next(line for line in service.stderr if "serving" in line)
    url = re.search("http://[0-9.:]+", line)[0]
    for _ in range(5):
        print(urllib.request.urlopen(f"{url}/livez").status)
    service.terminate()
"""


@needs_namespaces
def test_a_service_without_tracing_exports_nothing_where_fastapi_is_configured_to(tmp_path):
    record = isolated.run(
        [PYTHON, "-c", REQUESTS],
        0,
        PYTHONPATH=str(ROOT),
        FASTAPI_OTEL_AUTO_CONFIGURE="true",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.example:4318",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    assert record["output"].split() == ["200"] * 5
    assert is_silent(record)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("value", [None, "0"])
def test_every_package_turns_telemetry_off_before_onnxruntime_starts(tmp_path, package, value):
    environment = {n: v for n, v in os.environ.items() if n != TELEMETRY}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    if value is not None:
        environment[TELEMETRY] = value
    code = f"import {package}, onnxruntime, os; print(os.environ['{TELEMETRY}'])"
    done = subprocess.run(
        [PYTHON, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert list(tmp_path.iterdir()) == []  # onnxruntime writes a device id at its import


def imports_onnxruntime(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if any(name.partition(".")[0] == "onnxruntime" for name in names):
            return True
    return False


def test_every_package_that_imports_onnxruntime_is_one_of_these():
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    files = [name for name in listed if (ROOT / name).is_file()]
    packages = {name.split("/")[0] for name in files if imports_onnxruntime(ROOT / name)}
    assert packages - {"tests"} <= set(PACKAGES)  # the tests import the service first


def test_images_and_manifests_turn_telemetry_off():
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)[1:]
    final = {
        s.split("\n")[0].split(" AS ")[1]: s for s in stages if re.search("^CMD|^ENTRY", s, re.M)
    }
    assert set(final) == {"service-cpu", "service-gpu", "load", "train"}
    assert [name for name, stage in final.items() if f"{TELEMETRY}=1" not in stage] == []
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    for name in ("rerank", "rerank-gpu", "rerank-state"):
        assert compose["services"][name]["environment"][TELEMETRY] == "1"
    manifest = ROOT / "deploy/kubernetes/base/deployment.yaml"
    deployment = yaml.safe_load(manifest.read_text("utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": TELEMETRY, "value": "1"} in container["env"]


def test_the_export_keeps_openvino_from_loading_its_telemetry(tmp_path):
    (tmp_path / "openvino_telemetry.py").write_text("")
    for line, status in (
        ("import openvino_telemetry", 0),
        ("import export, openvino_telemetry", 1),
    ):
        done = subprocess.run(
            [PYTHON, "-c", line],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == status
    assert "ModuleNotFoundError" in done.stderr  # OpenVINO then goes on without


def test_ray_replicas_and_their_cluster_report_nothing():
    source = (ROOT / "deploy/ray/app.py").read_text("utf-8")
    commands = (ROOT / "docs/operations.md").read_text("utf-8")
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), (TELEMETRY, "1")):
        assert f'"{name}": "{value}"' in source
        assert f"{name}={value}" in commands
