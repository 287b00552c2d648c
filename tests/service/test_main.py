"""The command: settings, refusals in one line, a clean stop."""

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


def test_print_settings_shows_every_setting_with_its_value_and_meaning():
    printed = command("--print-settings", "--port", "8111", RERANK_MAX_QUEUE="77").stdout
    for name, field in Settings.model_fields.items():
        assert f"RERANK_{name.upper()}=" in printed
        assert field.description in printed
    assert "RERANK_PORT=8111" in printed
    assert "RERANK_MAX_QUEUE=77" in printed


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    for name in Settings.model_fields:
        assert f"`RERANK_{name.upper()}`" in text


@pytest.mark.parametrize("name", ["generator.onnx", "items.npz", "features.json", "golden.json"])
def test_a_bundle_with_a_flipped_byte_is_refused_in_one_line(tmp_path, name):
    shutil.copytree(BUNDLE, tmp_path / "1")
    content = bytearray((tmp_path / "1" / name).read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "1" / name).write_bytes(content)
    done = command("--bundle", str(tmp_path / "1"), "--port", "0")
    assert done.returncode == 2
    assert re.fullmatch(rf"service: .*{name}: SHA-256 \w+, the manifest says \w+\n", done.stderr)


def test_a_missing_bundle_and_a_bad_setting_are_refused_in_one_line():
    done = command("--bundle", "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere/manifest.json" in done.stderr
    done = command(RERANK_PORT="99999")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "RERANK_PORT" in done.stderr
    assert "99999" in done.stderr


def test_a_misspelt_setting_is_told_but_does_not_stop_the_service():
    done = command("--bundle", "nowhere", RERANK_PROT="8111")
    assert "RERANK_PROT: not a setting, ignored" in done.stderr
    assert "nowhere/manifest.json" in done.stderr


def test_a_taken_port_is_refused_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("--port", str(port))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"127.0.0.1:{port}: cannot listen" in done.stderr


def test_the_service_starts_answers_and_stops_on_sigterm():
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--port", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "serving" in line:
                break
        url = re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))[0]
        asked = {"candidates": [{"id": "1"}, {"id": "2"}]}
        assert httpx.post(f"{url}/rerank", json=asked).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.stderr.close()
        assert process.wait(30) == 0
