"""A candidate is published beside others who write `serving.json`."""

import shutil

import pytest

from model.retraining.errors import SupersededError
from model.retraining.plan import make_plan
from model.retraining.publish import publish
from model.retraining.record import RunRecord
from model.retraining.stages import bundle_of
from service.engine.contract import BundleError
from service.models import store
from service.models.store import ServingConfig, exclusive_config
from tests.support.retraining import options_of, serving


@pytest.fixture
def record(root):
    """A run whose bundle, a copy of the champion, only has to be published."""
    record = RunRecord(root / "work" / "2", make_plan(options_of(root), 0))
    shutil.copytree(root / "models" / "sale" / "1", bundle_of(record))
    return record


def names_in(root):
    return {path.name for path in (root / "models" / "sale").iterdir()}


def test_a_promotion_while_the_bundle_is_copied_is_not_undone(root, record, monkeypatch):
    def copied(bundle, target):
        ServingConfig("9").write(root / "models" / "sale")
        with exclusive_config(root / "models" / "sale"):  # the store is not locked meanwhile
            return copytree(bundle, target)

    copytree = shutil.copytree
    monkeypatch.setattr(shutil, "copytree", copied)
    with pytest.raises(SupersededError, match="must be 1, with which the run began, got 9"):
        publish(record, options_of(root), -1)
    assert serving(root) == ServingConfig("9")
    assert names_in(root) == {"1", "serving.json", store.LOCK}


def test_a_shadow_that_is_named_while_the_bundle_is_copied_stays_beside_the_canary(
    root, record, monkeypatch
):
    def copied(bundle, target):
        ServingConfig("1", shadow="9").write(root / "models" / "sale")
        return copytree(bundle, target)

    copytree = shutil.copytree
    monkeypatch.setattr(shutil, "copytree", copied)
    publish(record, options_of(root, promote="canary:0.1"), -1)
    assert serving(root) == ServingConfig("1", "2", 0.1, "9")


def test_nothing_is_published_while_another_process_holds_the_store(root, record, monkeypatch):
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.01)
    with (
        exclusive_config(root / "models" / "sale"),
        pytest.raises(BundleError, match=r"\.serving\.lock: held by another process"),
    ):
        publish(record, options_of(root), -1)
    assert names_in(root) == {"1", store.LOCK}
    publish(record, options_of(root), -1)
    assert serving(root) == ServingConfig("1", shadow="2")
