"""Stores with a canary, and journals of the lists that both versions answered."""

import hashlib
import json

import numpy as np

from service.engine.contract import MANIFEST, SEAL
from service.journal.records import Bundle
from service.models.store import ServingConfig, in_canary
from tests.support.journals import decision, event

HOUR_MS = 3_600_000
BEGIN = 1_700_000_000_000
SHARE = 0.3


def write_store(directory, config=None):
    """Write a store whose bundles are manifests alone, with a canary; return it."""
    for version in ("1", "2"):
        bundle = directory / "shop" / version
        bundle.mkdir(parents=True)
        content = json.dumps({"name": "shop", "version": version}).encode()
        (bundle / MANIFEST).write_bytes(content)
        (bundle / SEAL).write_text(hashlib.sha256(content).hexdigest() + "\n")
    (config or ServingConfig("1", "2", SHARE)).write(directory / "shop")
    return directory


def bundle_in(store, version):
    digest = (store / "shop" / version / SEAL).read_text().strip()
    return Bundle("shop", version, digest)


def traffic(store, users, rates, seed=0, **more):
    """Return lists of users, one in a minute, with likes at the rate of the user's version."""
    draw, records = np.random.default_rng(seed), []
    for number in range(users):
        user, at = f"u{number}", BEGIN + 60_000 * number
        is_canary = in_canary("shop", user, SHARE)
        fields = {key: value(draw, is_canary) for key, value in more.items()}
        made = decision(
            number, user, at, f"r{number}", bundle=bundle_in(store, "2" if is_canary else "1"),
            variant="canary" if is_canary else "active", slate=[1, 0], **fields,
        )  # fmt: skip
        records.append(made)
        if draw.random() < rates[is_canary]:
            records.append(event(number, user, at + 1000, f"r{number}", item="b", label=1.0))
    return records
