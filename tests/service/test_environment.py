"""Environments that real machines and clusters build: empty, foreign, inherited and extreme."""

import functools
import json
import os
import re
import resource
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import httpx
import pytest

from loadtest.server import serving
from service.settings import Settings
from tests.support import isolated
from tests.support.bundles import BUNDLE, ROOT
from tests.support.commands import command

DEFAULTS = {f"RERANK_{n.upper()}": f.default for n, f in Settings.model_fields.items()}
FLOATS = sorted(
    f"RERANK_{name.upper()}"
    for name, field in Settings.model_fields.items()
    if field.annotation in (float, float | None)
)
CHOICES = {
    name: get_args(field.annotation)
    for name, field in Settings.model_fields.items()
    if get_args(field.annotation) and isinstance(get_args(field.annotation)[0], str)
}


def printed(*arguments, **environment):
    """Return the settings that a service prints, by variable."""
    process = command("--print-settings", *arguments, **environment)
    assert (process.returncode, process.stderr) == (0, "")
    return dict(re.findall(r"^(RERANK_\w+)=(.*?)  # ", process.stdout, re.MULTILINE))


@functools.cache
def printed_defaults():
    return printed()


def service_links(name, port_name="http", address="10.96.0.17", port=80):
    """Return the variables that kubelet sets in every pod for a Service of its namespace."""
    prefix, port_name = (text.upper().replace("-", "_") for text in (name, port_name))
    url = f"tcp://{address}:{port}"
    return {
        f"{prefix}_SERVICE_HOST": address,
        f"{prefix}_SERVICE_PORT": str(port),
        f"{prefix}_SERVICE_PORT_{port_name}": str(port),
        f"{prefix}_PORT": url,
        f"{prefix}_PORT_{port}_TCP": url,
        f"{prefix}_PORT_{port}_TCP_PROTO": "tcp",
        f"{prefix}_PORT_{port}_TCP_PORT": str(port),
        f"{prefix}_PORT_{port}_TCP_ADDR": address,
    }


@pytest.mark.parametrize(
    "links",
    [
        service_links("rerank"),
        service_links("rerank", address="[fd00::17]"),
        service_links("rerank-gpu", "grpc-web", port=9000),
        {**service_links("rerank"), "RERANK_PORT": "8000"},  # an explicit value takes precedence
        {"RERANK_PORT": "udp://10.96.0.17:80"},
    ],
)  # fmt: skip
def test_service_links_are_ignored_with_one_line(links):
    assert printed(**links) == printed_defaults()
    process = command("--bundle", "nowhere", **links)
    warning, refusal = process.stderr.splitlines()
    assert json.loads(warning)["level"] == "warning"
    assert "service links" in json.loads(warning)["event"]
    ignored = {name for name in links if links[name] != "8000"}
    assert ignored <= set(re.findall(r"RERANK_\w+", warning))
    assert "nowhere/manifest.json" in refusal


def test_a_misspelt_setting_beside_service_links_has_a_line_of_its_own():
    process = command("--bundle", "nowhere", RERANK_PROT="1", **service_links("rerank"))
    assert len(process.stderr.splitlines()) == 3
    assert "RERANK_PROT: not a setting, ignored" in process.stderr


@pytest.mark.skipif(not isolated.available(), reason="needs network namespaces")
def test_a_service_with_service_links_listens_on_its_default_port():
    code = """
import subprocess, sys, urllib.request
with subprocess.Popen([sys.executable, "-m", "service"], stderr=subprocess.PIPE, text=True) as one:
    next(line for line in one.stderr if "serving" in line)
    print(urllib.request.urlopen("http://127.0.0.1:8000/livez").status)
    one.terminate()
"""
    links = service_links("rerank")
    record = isolated.run([sys.executable, "-c", code], 0, PYTHONPATH=str(ROOT), **links)
    assert record["output"] == "200\n"


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_variable_means_the_default_for_every_setting(value):
    assert printed(**dict.fromkeys(DEFAULTS, value)) == {
        name: str(default) for name, default in DEFAULTS.items()
    }


def test_an_empty_option_leaves_the_variable_in_force():
    options = ["--host", "", "--port", "", "--workers", "", "--bundle", "", "--models", ""]
    environment = {"RERANK_PORT": "8123", "RERANK_WORKERS": "3", "RERANK_BUNDLE": "b"}
    values = printed(*options, **environment)
    assert {name: values[name] for name in environment} == environment
    assert values["RERANK_HOST"] == "127.0.0.1"
    assert values["RERANK_MODELS"] == "None"


@pytest.fixture(scope="module")
def foreign_directory(tmp_path_factory):
    """Return a directory with the counters of an earlier process."""
    directory = tmp_path_factory.mktemp("metrics")
    code = "from prometheus_client import Counter; Counter('rerank_worker_restarts', '').inc(41)"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert list(directory.iterdir())
    return directory


@pytest.fixture(scope="module", params=["1", "2"])
def served(request, foreign_directory, tmp_path_factory):
    """Run a service with empty settings, foreign metrics and a temporary directory; record it."""
    temporary = tmp_path_factory.mktemp("temporary")
    record = SimpleNamespace(
        temporary=temporary,
        unused_since=os.stat(temporary).st_mtime_ns,
        metrics=sorted(foreign_directory.iterdir()),
    )
    variables = {
        **dict.fromkeys(DEFAULTS, ""),
        "TMPDIR": str(temporary),
        "PROMETHEUS_MULTIPROC_DIR": str(foreign_directory),
        "prometheus_multiproc_dir": str(foreign_directory),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with serving(BUNDLE, "--workers", request.param) as server:
            record.url, body = server.url, {"candidates": ["1", "2"]}
            record.ranked = httpx.post(f"{server.url}/rerank", json=body, timeout=30)
            record.page = httpx.get(f"{server.url}/metrics", timeout=30).text
    return record


def test_a_service_with_empty_variables_listens_on_127_0_0_1(served):
    assert served.url.startswith("http://127.0.0.1:")
    assert served.ranked.status_code == 200


def test_a_service_leaves_the_temporary_directory_alone(served):
    assert list(served.temporary.iterdir()) == []
    # Nothing came and went either.
    assert os.stat(served.temporary).st_mtime_ns == served.unused_since


def test_metrics_of_an_inherited_directory_are_not_exported(served, foreign_directory):
    assert re.findall(r"^rerank_list_size_count (\S+)$", served.page, re.M) == ["1.0"]
    restarts = re.findall(r"^rerank_worker_restarts_total (\S+)$", served.page, re.M)
    assert restarts in ([], ["0.0"])
    assert sorted(foreign_directory.iterdir()) == served.metrics


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
def test_a_setting_that_is_no_finite_number_is_refused_in_one_line(value):
    process = command(**dict.fromkeys(FLOATS, value))
    assert process.returncode == 2
    assert sorted(re.findall(r"^service: (RERANK_\w+): .*got '", process.stderr, re.M)) == FLOATS
    assert len(FLOATS) >= 12
    assert process.stderr.count("\n") == len(FLOATS)


@pytest.mark.parametrize("name", ["workers", "threads", "max_batch_size"])
def test_a_number_that_no_machine_can_provide_is_refused_in_one_line(name):
    process = command("--port", "0", **{f"RERANK_{name.upper()}": str(2**31)})
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert f"RERANK_{name.upper()}: " in process.stderr


def test_a_host_that_is_no_name_is_refused_in_one_line():
    process = command(RERANK_HOST="é" * 300, RERANK_PORT="0")
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert "cannot listen" in process.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_BSP_MAX_QUEUE_SIZE", "0"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x")],
)
def test_a_variable_that_opentelemetry_refuses_is_refused_in_one_line(name, value):
    process = command("--port", "0", RERANK_TRACING="otlp", **{name: value})
    refusals = [line for line in process.stderr.splitlines() if not line.startswith("{")]
    assert (process.returncode, len(refusals)) == (2, 1)  # beside log lines, which are JSON
    assert "RERANK_TRACING=otlp" in process.stderr


def forbid_files():
    """Let every write to a file fail, as on a full or read-only disk. Pipes are not affected."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def start_without_files(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "service", "--port", "0", *arguments],
        cwd=ROOT, preexec_fn=forbid_files, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_several_workers_without_memory_for_their_metrics_are_refused_in_one_line():
    process = start_without_files("--workers", "2")  # the limit holds for shared memory too
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count("\n")) == (2, 1)
    assert "RERANK_WORKERS=2: no memory" in errors


def test_a_single_process_needs_no_temporary_directory():
    with start_without_files() as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "serving" in line)
            (url,) = re.findall(r"http://127\.0\.0\.1:\d+", line)
            assert httpx.get(f"{url}/metrics").status_code == 200
        finally:
            process.terminate()
    assert process.returncode == 0


def test_choices_may_be_written_in_capitals():
    values = printed(**{f"RERANK_{name.upper()}": of[-1].upper() for name, of in CHOICES.items()})
    assert len(CHOICES) >= 5
    for name, choices in CHOICES.items():
        assert values[f"RERANK_{name.upper()}"] == choices[-1]
    process = command(RERANK_LOG_LEVEL="LOUD")
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["missing", ""])
def test_an_inherited_directory_that_is_missing_does_not_matter(monkeypatch, tmp_path, name):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", name and str(tmp_path / name))
    with serving(BUNDLE) as server:
        assert "rerank_list_size_count 0.0" in httpx.get(f"{server.url}/metrics").text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tracing", ["off", "otlp"])
def test_a_propagator_that_is_not_installed_does_not_matter(monkeypatch, tracing):
    monkeypatch.setenv("OTEL_PROPAGATORS", "b3,missing")
    with serving(BUNDLE, tracing=tracing) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200


RAY_REPLICA = """
import sys, types
built = []
serve = types.ModuleType("ray.serve")
serve.ingress = lambda builder: lambda: built.append(builder)
serve.deployment = lambda *a, **k: types.SimpleNamespace(bind=lambda: None)
sys.modules["ray"] = types.ModuleType("ray")
sys.modules["ray"].serve = sys.modules["ray.serve"] = serve
from deploy.ray.app import build
build({"bundle": "bundles/ranklens/1", "host": "", "replicas": ""})
app = built[0]()
print(sorted({r.path for r in app.routes if r.path == "/metrics"}))
from service.metrics import Metrics
print(Metrics().page().count(b"rerank_worker_restarts_total 41.0"))
"""


def test_a_ray_replica_ignores_inherited_metrics_service_links_and_empty_arguments(
    foreign_directory,
):
    links = {**service_links("rerank"), "PROMETHEUS_MULTIPROC_DIR": str(foreign_directory)}
    done = subprocess.run(
        [sys.executable, "-c", RAY_REPLICA],
        cwd=ROOT, env={**os.environ, **links}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "['/metrics']\n0\n", done.stderr
