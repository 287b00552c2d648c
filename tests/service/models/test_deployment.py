"""Loading of bundles: files that the supervisor has read, and the old contract."""

import logging

import pytest

from service.engine import digests
from service.engine.contract import Manifest
from service.models.deployment import hash_files, load_session
from service.settings import Settings
from tests.support.bundles import BUNDLE, ROOT
from tests.support.stores import copy_bundle

OLD = ROOT / "tests" / "frozen" / "bundles" / "ranklens" / "1"


def refuse_to_read(path):
    raise AssertionError(f"{path} is read again")


@pytest.mark.parametrize("source", ["bundle", "models"])
def test_no_file_of_a_served_bundle_is_read_again_for_its_hash(store, monkeypatch, source):
    copy_bundle(store, "ranklens", "2")
    chosen = {"bundle": store / "ranklens" / "2", "models": store}[source]
    trusted = hash_files(Settings(**{source: chosen}))
    monkeypatch.setattr(digests, "sha256", refuse_to_read)
    directory = store / "ranklens" / "2"
    Manifest.read(directory).verify_files(directory, trusted)
    path = directory / "golden.json"
    path.write_bytes(path.read_bytes())
    with pytest.raises(AssertionError, match=r"golden\.json is read again"):
        Manifest.read(directory).verify_files(directory, trusted)


def test_a_bundle_that_cannot_be_read_is_left_to_the_worker_that_loads_it(tmp_path):
    assert hash_files(Settings(bundle=tmp_path))._digests == {}
    assert hash_files(Settings(models=tmp_path / "nowhere"))._digests == {}


@pytest.mark.parametrize(("bundle", "lines"), [(OLD, 1), (BUNDLE, 0)])
def test_the_old_contract_is_deprecated_in_one_line(caplog, bundle, lines):
    with caplog.at_level(logging.WARNING, "service"):
        load_session(bundle, Settings())
    deprecations = [r for r in caplog.records if "contract 2 is deprecated" in r.getMessage()]
    assert len(deprecations) == lines
    assert all("python -m export upgrade" in record.getMessage() for record in deprecations)
