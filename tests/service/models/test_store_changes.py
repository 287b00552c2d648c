"""A store that changes, or breaks, while a real server answers."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.engine.contract import BundleError, Manifest
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.models.store import ServingConfig
from service.settings import Settings
from tests.support.stores import (
    copy_bundle,
    metric_value,
    post_rerank,
    served_version,
    store_server,
    update_hashes,
    wait_until,
)

CHANGES = 'rerank_model_changes_total{name="ranklens",outcome="%s"}'


@pytest.mark.alone
def test_a_change_of_serving_json_is_followed_within_a_second(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1").write(store / "ranklens")
    seconds = []
    with store_server(store) as (client, _):
        for expected in ("2", "1", "2"):
            began = time.monotonic()
            ServingConfig(expected).write(store / "ranklens")
            wait_until(lambda version=expected: served_version(client) == version)
            seconds.append(time.monotonic() - began)
        assert metric_value(client, CHANGES % "changed") == 3
    assert min(seconds) < 1.0  # a shared machine may stall once


def flipped(directory):
    path = directory / "generator.rows.npy"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def other_golden(directory):
    golden = json.loads((directory / "golden.json").read_text())
    golden[0]["slate"][:2] = golden[0]["slate"][1::-1]
    (directory / "golden.json").write_text(json.dumps(golden))
    update_hashes(directory)


def no_golden(directory):
    (directory / "golden.json").write_text("[3]")
    update_hashes(directory)


def no_table(directory):
    (directory / "items.numbers.npy").write_bytes(b"\x93NUMPY and no more")
    update_hashes(directory)


def no_graph(directory):
    (directory / "generator.onnx").write_bytes(b"no graph")
    update_hashes(directory)


def wide_graph(directory):
    manifest = Manifest.read(directory)
    replace(manifest, numbers=manifest.numbers + 1).write(directory)


BREAKINGS: list[Callable[[Path], Any]] = [
    flipped,
    other_golden,
    no_golden,
    no_table,
    no_graph,
    wide_graph,
    shutil.rmtree,
]


def test_a_broken_bundle_is_refused_once_and_served_when_it_is_repaired(store):
    for number, broken in enumerate(BREAKINGS, start=2):
        broken(copy_bundle(store, "ranklens", str(number)))
    ServingConfig("1").write(store / "ranklens")
    with store_server(store, watch_s=0.02) as (client, _):
        for number, broken in enumerate(BREAKINGS, start=2):
            ServingConfig(str(number)).write(store / "ranklens")
            wait_until(lambda count=number - 1: metric_value(client, CHANGES % "refused") >= count)
            time.sleep(0.1)  # five more looks
            assert (broken.__name__, metric_value(client, CHANGES % "refused")) == (
                broken.__name__, number - 1,
            )  # fmt: skip
            assert served_version(client) == "1"
        copy_bundle(store.parent / "repaired", "ranklens", "2").rename(
            store / "ranklens" / "repaired"
        )
        (store / "ranklens" / "2").rename(store / "ranklens" / ".broken")
        (store / "ranklens" / "repaired").rename(store / "ranklens" / "2")
        ServingConfig("2").write(store / "ranklens")
        wait_until(lambda: served_version(client) == "2")
        assert metric_value(client, CHANGES % "changed") == 1


@pytest.mark.parametrize("broken", BREAKINGS[1:6], ids=lambda broken: broken.__name__)
def test_a_store_with_a_broken_bundle_is_refused_at_the_start(store, broken):
    broken(store / "ranklens" / "1")
    with pytest.raises(BundleError):
        Fleet.load(Settings(models=store), Metrics())


def test_a_broken_serving_json_is_refused_once_and_the_old_config_is_kept(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1").write(store / "ranklens")
    with store_server(store, watch_s=0.02) as (client, _):
        (store / "ranklens" / "serving.json").write_text('{"active": 2}')
        wait_until(lambda: metric_value(client, CHANGES % "refused") == 1)
        time.sleep(0.1)
        assert metric_value(client, CHANGES % "refused") == 1
        assert served_version(client) == "1"
        ServingConfig("2").write(store / "ranklens")
        wait_until(lambda: served_version(client) == "2")


def test_a_store_is_followed_while_files_appear_and_vanish(store):
    copy_bundle(store, "ranklens", "2")
    ServingConfig("1").write(store / "ranklens")
    stop = threading.Event()

    def churn():
        number = 0
        while not stop.is_set():
            directory = store / "ranklens" / f"0.{number % 3}"
            directory.mkdir(parents=True)
            for name in ("manifest.json", "a", "b", "c", "d", "e"):
                (directory / name).write_text("half a bundle")
            shutil.rmtree(directory)
            number += 1

    with store_server(store, watch_s=0.001) as (client, fleet):
        thread = threading.Thread(target=churn)
        thread.start()
        for _ in range(100):
            served_version(client)
        stop.set()
        thread.join()
        assert not fleet._watcher.done()
        ServingConfig("2").write(store / "ranklens")
        wait_until(lambda: served_version(client) == "2")


def test_a_model_added_to_the_store_is_served(store):
    with store_server(store) as (client, _):
        assert post_rerank(client, model="zebra").status_code == 422
        copy_bundle(store.parent / "copy", "zebra", "1")
        (store.parent / "copy" / "zebra").rename(store / "zebra")
        wait_until(lambda: post_rerank(client, model="zebra").status_code == 200)
        assert post_rerank(client).json()["model"]["name"] == "ranklens"
