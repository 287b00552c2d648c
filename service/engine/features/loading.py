"""Load the featuriser of a bundle."""

from __future__ import annotations

from pathlib import Path

from service.engine.contract import CONTRACT_VERSION, FEATURES, NETWORKS, BundleError, Manifest
from service.engine.features.featuriser import Featuriser
from service.engine.features.row_featuriser import RowFeaturiser

GENERATOR_ROWS = NETWORKS[0]


def load_featuriser(directory: Path, manifest: Manifest) -> Featuriser:
    """Load the featuriser of a bundle. Raises BundleError unless it has the manifest's widths."""
    try:
        if manifest.contract_version == CONTRACT_VERSION:
            featuriser: Featuriser = RowFeaturiser.load(directory)
        else:
            featuriser = Featuriser.load(directory)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{directory}: {FEATURES} or the item table does not load ({error})"
        ) from error
    if isinstance(featuriser, RowFeaturiser):
        widths = {
            "columns of numbers": (featuriser.request_width, manifest.numbers),
            "columns of item rows": (featuriser.halves[GENERATOR_ROWS].width, manifest.width),
            "items": (len(featuriser.items.ids), manifest.items),
        }
    else:
        widths = {
            "columns of numbers": (featuriser.numbers_width, manifest.numbers),
            "columns of tokens": (featuriser.tokens_width, manifest.tokens),
        }
    for name, (width, expected) in widths.items():
        if width != expected:
            raise BundleError(
                f"{directory}: the featuriser makes {width} {name}, "
                f"but the manifest says {expected}"
            )
    return featuriser
