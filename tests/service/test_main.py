"""The command line: settings, one-line refusals and a clean stop."""

import re
import shutil
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from service.settings import Settings
from tests.support.bundles import BUNDLE, ROOT
from tests.support.commands import command


def test_print_settings_lists_every_setting_with_value_and_description():
    output = command("--print-settings", "--port", "8111", RERANK_MAX_QUEUE="77").stdout
    for name, field in Settings.model_fields.items():
        assert f"RERANK_{name.upper()}=" in output
        assert field.description in output
    assert "RERANK_PORT=8111" in output
    assert "RERANK_MAX_QUEUE=77" in output


def test_the_documentation_lists_every_setting_with_default_and_description():
    text = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    documented = [line for line in text.splitlines() if line.startswith("| `RERANK_")]
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        value = f"{default:g}" if type(default) is float else str(default).lower()
        cell = " " if default is None else f" `{value}` "
        rows.append(f"| `RERANK_{name.upper()}` |{cell}| {field.description} |")
    assert documented == rows


@pytest.mark.parametrize("name", ["generator.onnx", "golden.json"])
def test_a_bundle_with_a_flipped_byte_is_refused_in_one_line(tmp_path, name):
    shutil.copytree(BUNDLE, tmp_path / "1")
    content = bytearray((tmp_path / "1" / name).read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "1" / name).write_bytes(content)
    process = command("--bundle", str(tmp_path / "1"), "--port", "0")
    assert process.returncode == 2
    assert re.fullmatch(
        rf"service: .*{name}: SHA-256 is \w+, but the manifest says \w+\n", process.stderr
    )


def test_a_missing_bundle_and_an_invalid_setting_are_refused_in_one_line():
    process = command("--bundle", "nowhere")
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert "nowhere/manifest.json" in process.stderr
    process = command(RERANK_PORT="99999")
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert "RERANK_PORT" in process.stderr
    assert "99999" in process.stderr


def test_a_misspelt_setting_is_logged_and_ignored():
    process = command("--bundle", "nowhere", RERANK_PROT="8111")
    assert "RERANK_PROT: not a setting, ignored" in process.stderr
    assert "nowhere/manifest.json" in process.stderr


def test_a_taken_port_is_refused_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = command("--port", str(port))
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert f"127.0.0.1:{port}: cannot listen" in process.stderr


def test_the_service_starts_responds_and_stops_on_sigterm():
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--port", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "serving" in line)
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+", line)
        payload = {"candidates": [{"id": "1"}, {"id": "2"}]}
        assert httpx.post(f"{url}/rerank", json=payload).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.stderr.close()
        assert process.wait(30) == 0
