"""Write a bundle of a large random catalogue, with random weights.

Run as a script, the module writes it with the code of the tree on PYTHONPATH and imports nothing
else of this project that older trees lack, so that it can write an older bundle too.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import bundle
from model.learning.checkpoint import Trained, build
from model.learning.state import RunState
from model.network.config import Config
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import Schema

BRANDS, LOOK = 500, 16  # values of a category, width of a vector


def item_id(number: int) -> str:
    """Return the id of an item, as long as a product number."""
    return f"sku-{number:09d}"


def featuriser_of(items: int) -> Featuriser:
    """Return a featuriser over random items with an identifier and features of every kind."""
    draw = np.random.default_rng(0)
    ids = tuple(item_id(number) for number in range(items))
    brands = [f"brand-{number:03d}" for number in range(BRANDS)]
    features: list[dict[str, Any]] = [
        {"name": "item_id", "of": "item", "kind": "identifier", "vocabulary": ids},
        {"name": "like_rate", "of": "item", "kind": "statistic", "relative": True},
        {"name": "price", "of": "item", "kind": "number", "relative": True},
        {"name": "brand", "of": "item", "kind": "category", "vocabulary": brands},
        {"name": "look", "of": "item", "kind": "vector", "width": LOOK},
        {"name": "hour", "of": "context", "kind": "category", "vocabulary": ["day", "night"]},
    ]
    schema = {"name": "catalogue", "features": features, "history": {"kernels": ["look"]}}
    tokens = np.empty((items, 2), np.int64)
    tokens[:, 0] = np.arange(2, items + 2)
    tokens[:, 1] = draw.integers(items + 3, items + 3 + BRANDS, items)
    numbers = draw.standard_normal((items, 2), np.float32)
    vectors = {"look": draw.standard_normal((items, LOOK), np.float32)}
    return Featuriser(Schema.from_dict(schema), ItemTable(ids, numbers, tokens, vectors))


def write(config: Config, items: int, directory: Path) -> None:
    """Write the bundle, without golden requests and offline metrics."""
    torch.manual_seed(0)
    featuriser = featuriser_of(items)
    state = RunState(config=config, positions=config.slate_length)
    generator, evaluator = build(config, featuriser, 20)
    generator.eval()
    evaluator.eval()
    trained = Trained(config, featuriser, generator, evaluator, 2.0, 0.5, state)
    directory.mkdir(parents=True)
    bundle.write_graphs(trained, directory)
    if hasattr(bundle, "write_items"):
        bundle.write_items(trained, directory)
    else:  # an older tree
        featuriser.save(directory)
    (directory / "golden.json").write_text("[]\n")
    manifest = bundle.manifest_of(trained, directory)
    dataclasses.replace(manifest, offline_metrics={"none": "random weights"}).write(directory)


def main(arguments: Sequence[str]) -> None:
    """Write a bundle and print its size in bytes as JSON."""
    config, items, directory = Path(arguments[0]), int(arguments[1]), Path(arguments[2])
    write(Config.load(config), items, directory)
    print(json.dumps({"bytes": sum(path.stat().st_size for path in directory.iterdir())}))


if __name__ == "__main__":
    main(sys.argv[1:])
