"""Read the ids and tokens of a bundle's items, from flat files or from the older archive."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ARCHIVE = "items.npz"  # of contract 2


def read_ids(directory: Path, prefix: str) -> list[str]:
    """Return the ids of the flat files `prefix`.*. Raises OSError or ValueError."""
    text = np.load(directory / f"{prefix}.text.npy", allow_pickle=False).tobytes()
    ends = np.load(directory / f"{prefix}.ends.npy", allow_pickle=False).tolist()
    return [text[begin:end].decode() for begin, end in pairwise(ends)]


def read_item_ids(directory: Path) -> list[str]:
    """Return the ids of all items of a bundle. Raises OSError, ValueError or KeyError."""
    if not (directory / ARCHIVE).exists():
        return read_ids(directory, "items.ids")
    with np.load(directory / ARCHIVE, allow_pickle=False) as table:
        ids: list[str] = table["ids"].tolist()
    return ids


def read_item_tokens(directory: Path) -> npt.NDArray[Any]:
    """Return the tokens of all items, int [I, Q]. Raises OSError, ValueError or KeyError."""
    if not (directory / ARCHIVE).exists():
        tokens: npt.NDArray[Any] = np.load(directory / "items.tokens.npy", allow_pickle=False)
        return tokens[:-1]  # without those of an unknown item
    with np.load(directory / ARCHIVE, allow_pickle=False) as table:
        of_items: npt.NDArray[Any] = table["tokens"]
    return of_items


def read_vocabularies(directory: Path, payload: dict[str, Any]) -> list[list[str] | None]:
    """Return the vocabulary of each feature of features.json, None for a feature without one.

    That of item_id has the right length and no texts.
    """
    sizes, vocabularies = payload.get("vocabularies_in_files", {}), list[list[str] | None]()
    for place, feature in enumerate(payload["features"]):
        name = feature["name"]
        if feature["kind"] not in ("identifier", "category", "categories"):
            vocabularies.append(None)
        elif name == "item_id" and name in sizes:
            vocabularies.append([""] * sizes[name])
        elif name in sizes:
            vocabularies.append(read_ids(directory, f"vocabulary.{place}"))
        else:
            vocabularies.append(feature.get("vocabulary", []))
    return vocabularies
