"""The model of a store of bundles that a command works on."""

from __future__ import annotations

from pathlib import Path

from service.engine.contract import SEAL, BundleError
from service.models.versions import scan_store


def choose_model(models: Path, name: str | None) -> str:
    """Return the model of that name, or the only one of the store. Raises BundleError."""
    names = list(scan_store(models).models)
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        rule = f"one of {', '.join(names)}" if names else f"a model, but {models} has none"
        raise BundleError(f"--name: must be {rule}, got {name or 'none'}")
    return name


def manifest_digest(bundle: Path) -> str:
    """Return the SHA-256 of a bundle's manifest in hexadecimal, by which the journal names it."""
    return (bundle / SEAL).read_text(encoding="ascii").strip()
