"""The versions of a store: their order, and the directories that are none."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from service.engine.contract import BundleError
from service.metrics import Metrics
from service.models.fleet import Fleet
from service.models.store import ServingConfig, stamp_of
from service.models.versions import scan_model, scan_store, version_key
from service.settings import Settings
from tests.support.stores import copy_bundle


@pytest.mark.parametrize(
    "ascending",
    [
        ["1", "2", "9", "10", "11"],
        ["1.0-dev", "1.0-alpha", "1.0-beta", "1.0-rc", "1.0", "1.0.1", "1.1-rc1", "1.1"],
        ["1.0-rc1", "1.0-rc2", "1.0-rc10", "1.0"],
        ["1.0-rc.2", "1.0-rc.10", "1.0"],
        ["1.0-rc1-dev3", "1.0-rc1", "1.0-rc2", "1.0", "1.0-hotfix"],
        ["1.0.dev3", "1.0.1", "1.0a"],
        ["2.0rc1", "2.0", "2.0_hotfix"],
        ["1.0-RC1", "1.0"],
        ["2026-11-29-beta2", "2026-11-29", "2026-11-30-dev"],
        ["stable-rc1", "stable", "stable-2"],
        ["9", "archive", "archive1", "orchard-1", "rc1"],  # `rc` inside a word or alone is no stage
        ["01", "1", "2"],  # of equal numbers the order does not depend on the file system
    ],
)
def test_numbers_compare_as_numbers_and_a_stage_is_below_its_release(ascending):
    shuffled = random.Random(0).sample(ascending, len(ascending))
    assert sorted(shuffled, key=version_key) == ascending


def plant(directory, name, version):
    """Make a directory whose manifest has a name and a version and nothing else."""
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text(json.dumps({"name": name, "version": version}))


def test_a_version_is_a_directory_whose_manifest_names_it(tmp_path):
    model = tmp_path / "m"
    plant(model / "1", "m", "1")
    plant(tmp_path / "elsewhere", "m", "1.5")
    (model / "1.5").symlink_to(tmp_path / "elsewhere")
    (model / "latest").symlink_to("1")
    (model / "dangling").symlink_to("nowhere")
    shutil.copytree(model / "1", model / "1.bak")
    plant(model / "2.tmp", "m", "2")
    plant(model / "3", "other", "3")
    plant(model / "4", "m", 4)
    plant(model / ".5", "m", "5")
    plant(model / "6 copy", "m", "6 copy")
    (model / "7").mkdir()
    for number, content in (("8", '{"name": "m", "vers'), ("9", "[]"), ("10", "[" * 100_000)):
        plant(model / number, "m", number)
        (model / number / "manifest.json").write_text(content)
    (model / "11" / "manifest.json").mkdir(parents=True)
    os.mkfifo(model / "7" / "events")
    (model / "serving.json").write_text("{}")
    scan = scan_model(model)
    assert scan.versions == ["1", "1.5"]
    reasons = {path.name: reason for path, reason in scan.ignored.items()}
    assert {name: reasons[name] for name in ("latest", "1.bak", "2.tmp", "3", "7")} == {
        "latest": "its manifest says m/1",
        "1.bak": "its manifest says m/1",
        "2.tmp": "its manifest says m/2",
        "3": "its manifest says other/3",
        "7": "it has no manifest.json",
    }
    assert set(reasons) == {
        "latest", "1.bak", "2.tmp", "3", "4", "6 copy", "7", "8", "9", "10", "11",
    }  # fmt: skip
    assert [path.name for path in scan.damaged] == ["10", "11", "4", "8", "9"]


def test_a_changed_manifest_is_read_again(tmp_path):
    plant(tmp_path / "m" / "2", "m", "1")
    assert scan_model(tmp_path / "m").versions == []
    path = tmp_path / "m" / "2" / "manifest.json"
    path.with_name("new").write_text(json.dumps({"name": "m", "version": "2"}))
    os.replace(path.with_name("new"), path)
    assert scan_model(tmp_path / "m").versions == ["2"]


def test_a_model_is_a_directory_with_a_version(tmp_path):
    plant(tmp_path / "m" / "1", "m", "1")
    (tmp_path / "m" / "serving.json").write_text('{"active": "1"}')
    shutil.copytree(tmp_path / "m", tmp_path / "m.bak")
    (tmp_path / "current").symlink_to("m")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "m", tmp_path / ".m")
    (tmp_path / "README").write_text("a file")
    scan = scan_store(tmp_path)
    assert scan.models == ["m"]
    assert {path.name for path in scan.ignored} == {"m.bak", "current", "lost+found", "empty"}
    assert scan_store(tmp_path / "missing").models == []


def test_a_damaged_version_of_a_configured_model_is_refused_and_not_ignored(store, caplog):
    copy_bundle(store, "zebra", "1")
    path = store / "ranklens" / "1" / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    assert scan_store(store).models == ["zebra"]
    ServingConfig("1").write(store / "ranklens")
    with pytest.raises(BundleError, match=r"ranklens/1/manifest\.json"):
        Fleet.load(Settings(models=store), Metrics())
    (line,) = caplog.messages
    assert "ranklens/1: ignored: its manifest.json cannot be read as JSON" in line


def test_an_empty_store_is_refused_naming_the_directories_that_it_ignores(tmp_path):
    plant(tmp_path / "m.bak" / "1", "m", "1")
    with pytest.raises(BundleError, match=r"NAME/VERSION/manifest\.json, ignored: .*m\.bak"):
        Fleet.load(Settings(models=tmp_path), Metrics())
    with pytest.raises(BundleError, match=r"VERSION/.*, ignored: 1: its manifest says m/1"):
        ServingConfig.read(tmp_path / "m.bak")


def test_a_copy_beside_the_versions_does_not_change_the_stamp(tmp_path):
    plant(tmp_path / "m" / "1", "m", "1")
    before = stamp_of(tmp_path / "m")
    plant(tmp_path / "m" / "2.tmp", "m", "2")
    assert stamp_of(tmp_path / "m") == before
    (tmp_path / "m" / "2.tmp").rename(tmp_path / "m" / "2")
    assert stamp_of(tmp_path / "m") != before


def test_a_failing_volume_is_an_error_and_no_missing_version(tmp_path, monkeypatch):
    plant(tmp_path / "m" / "1", "m", "1")

    def stale(path, **options):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(OSError, match="Stale"):
        scan_model(tmp_path / "m")
