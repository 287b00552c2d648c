"""Publishing a version to the store of a running service process, as docs/operations.md says."""

import re
import shutil
import subprocess
from pathlib import Path

import httpx

from loadtest.server import serving
from tests.support.bundles import BUNDLE, ROOT
from tests.support.stores import copy_bundle, metric_value, served_version, wait_until

REFUSED = 'rerank_model_changes_total{name="ranklens",outcome="refused"}'
WATCH_S = 0.02


def documented_commands(source, store):
    """Return the commands of docs/operations.md, over other directories."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(\s*cp -r build/ranklens/2 .*?)```", text, re.DOTALL)
    lines = [line.strip().replace("build/ranklens/2", str(source)) for line in block.splitlines()]
    return [line.replace("models/", f"{store}/") for line in lines if line]


def copy_slowly(source, target, pause):
    """Copy a directory file by file, each in two halves; call `pause` after every write."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        content = path.read_bytes()
        for part in (content[: len(content) // 2], content):
            (target / path.name).write_bytes(part)
            pause()


class Looks:
    """Waits until the service has looked at the store again."""

    def __init__(self, client):
        self._client = client

    def wait(self):
        for _ in range(3):
            self._client.get("/livez").raise_for_status()
            subprocess.run(["sleep", str(WATCH_S)], check=True)


def test_the_documented_way_to_publish_changes_the_version_and_raises_no_alert(store, tmp_path):
    source = copy_bundle(tmp_path / "build", "ranklens", "2")
    copy_command, move_command = documented_commands(source, store)
    assert copy_command == f"cp -r {source} {store}/ranklens/2.tmp"
    with (
        serving(BUNDLE, f"--models={store}", watch_s=WATCH_S, timeout_ms=60_000) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        looks = Looks(client)
        copy_slowly(source, store / "ranklens" / "2.tmp", looks.wait)  # as `cp -r` does
        assert served_version(client) == "1"
        subprocess.run(move_command, shell=True, check=True)
        wait_until(lambda: served_version(client) == "2")
        assert metric_value(client, REFUSED) == 0
        log = server.log.read_text()
    assert "refused" not in log
    assert len(re.findall(r"ranklens/2\.tmp\b.*ignored", log)) == 1


def test_other_directories_of_a_store_are_neither_served_nor_refused(store):
    model = store / "ranklens"
    copy_bundle(store, "ranklens", "1.0-rc1")
    copy_bundle(store, "ranklens", "1.0")
    shutil.copytree(model / "1.0", model / "1.0.bak")
    shutil.copytree(model / "1", model / "9.tmp")
    (model / "latest").symlink_to("1")
    shutil.copytree(model, store / "ranklens.bak", symlinks=True)
    (store / "current").symlink_to("ranklens")
    expected = {"1.0.bak", "9.tmp", "latest", "ranklens.bak", "current"}
    with (
        serving(BUNDLE, f"--models={store}", watch_s=WATCH_S, timeout_ms=60_000) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        assert served_version(client) == "1.0"
        for _ in range(5):
            Looks(client).wait()
        shutil.rmtree(model / "9.tmp")
        (model / "later.tmp").mkdir()
        wait_until(lambda: "later.tmp" in server.log.read_text())
        assert served_version(client) == "1.0"
        metrics = client.get("/metrics").text
        log = server.log.read_text()
    assert re.findall(r'changes_total\{name="(\w+)",outcome="refused"\} (\S+)', metrics) == [
        ("ranklens", "0.0")
    ]
    assert "refused" not in log
    ignored = [Path(path).name for path in re.findall(r"([^\s\"]+): ignored: ", log)]
    assert sorted(ignored) == sorted(expected | {"later.tmp"})
