"""Publish the bundle of a run in the store of the service, as shadow or as canary."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.retraining.commands import Retrain
from model.retraining.errors import CanaryError, RetrainError, SupersededError
from model.retraining.plan import Plan, share_of
from model.retraining.record import RunRecord
from model.retraining.stages import bundle_of
from model.served import manifest_digest
from service.engine.contract import Manifest
from service.models.store import ServingConfig, exclusive_config
from service.models.versions import SERVING


def publish(record: RunRecord, options: Retrain, lock: int) -> dict[str, Any]:
    """Copy the bundle into the store, and name it in `serving.json`; doing both again is safe.

    The bundle is copied and verified before the store is locked and its config read: that takes
    long, and a promotion or roll-back meanwhile must not be undone.

    Raises:
        SupersededError: the active version is not that of the plan any more.
        CanaryError: another canary is under way.
        RetrainError: the store has another bundle of the version.
        BundleError: another process holds the lock of the store.
    """
    plan = record.plan
    directory = options.models / plan.name
    target = directory / plan.version
    with copied(bundle_of(record), target) as copy, exclusive_config(directory):
        config = publication(directory, plan, share_of(options.promote))
        if not (directory / SERVING).exists():
            # Without the file the highest version is active, which would be the candidate.
            ServingConfig(plan.champion).write(directory)
        install(copy, target)
        config.write(directory)
    return {"serving": dataclasses.asdict(config)}


def publication(directory: Path, plan: Plan, share: float | None) -> ServingConfig:
    """Return the config of the store with the candidate.

    Args:
        directory: of the model in the store.
        share: of the canary, None for a shadow.

    Raises SupersededError and CanaryError like `publish`.
    """
    config = ServingConfig.read(directory)
    if config.active == plan.version:  # published and promoted before the record was written
        return config
    if config.active != plan.champion or manifest_digest(directory / config.active) != plan.digest:
        raise SupersededError(
            f"{directory / SERVING}: the active version must be {plan.champion}, with which the "
            f"run began, got {config.active}; a new run begins with it"
        )
    if share is None:
        return dataclasses.replace(config, shadow=plan.version)
    if config.canary not in (None, plan.version):
        raise CanaryError(
            f"{directory / SERVING}: canary {config.canary} is under way; run the same command "
            "again when its experiment is over"
        )
    shadow = None if config.shadow == plan.version else config.shadow
    return dataclasses.replace(config, canary=plan.version, share=share, shadow=shadow)


@contextmanager
def copied(bundle: Path, target: Path) -> Iterator[Path]:
    """Copy a bundle beside its place in the store and verify the copy, which is removed in the end.

    Raises BundleError for a copy that differs.
    """
    building = target.with_name(f".{target.name}.building")  # the service ignores such a name
    shutil.rmtree(building, ignore_errors=True)
    try:
        shutil.copytree(bundle, building)
        Manifest.read(building).verify_files(building)
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def install(copy: Path, target: Path) -> None:
    """Move a copy to its place in the store. Raises RetrainError if it holds another bundle."""
    if not target.exists():
        os.replace(copy, target)
    elif manifest_digest(target) != manifest_digest(copy):
        raise RetrainError(f"{target}: must be absent, but holds another bundle")
