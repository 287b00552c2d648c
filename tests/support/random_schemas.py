"""Random schemas with item tables, weights of an embedding and candidate lists over them."""

from typing import Any

import numpy as np

from service.engine.contract import NETWORKS
from service.engine.features.candidates import CandidateList
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.item_half import Weights
from service.engine.features.schema import Schema

WORDS = [f"w{number}" for number in range(6)]
ITEMS = [f"i{number}" for number in range(9)]
UNKNOWN = "nobody"


def random_featuriser(draw):
    """Return a featuriser over a random schema and ITEMS."""
    features: list[dict[str, Any]] = []
    if draw.random() < 0.7:
        vocabulary = sorted(draw.choice(ITEMS, 6, replace=False).tolist())
        features.append(
            {"name": "item_id", "of": "item", "kind": "identifier", "vocabulary": vocabulary}
        )
    if draw.random() < 0.5:
        features.append(
            {"name": "user_id", "of": "user", "kind": "identifier", "vocabulary": ["u1", "u2"]}
        )
    for number in range(int(draw.integers(2, 9))):
        features.append(random_feature(draw, f"f{number}"))
    draw.shuffle(features)
    kernels = [
        f["name"] for f in features if f["of"] == "item" and f["kind"] in ("categories", "vector")
    ]
    schema = Schema.from_dict(
        {"name": "random", "features": features, "history": {"limit": 5, "kernels": kernels}}
    )
    return Featuriser(schema, random_table(draw, schema))


def random_feature(draw, name):
    """Return the declaration of a feature of any kind and owner, fitted."""
    of = str(draw.choice(["item", "item", "item", "user", "context", "candidate"]))
    kind = str(draw.choice(["number", "category", "categories", "vector", "identifier"]))
    feature: dict[str, Any] = {"name": name, "of": of, "kind": kind}
    if kind == "number":
        feature |= {"mean": float(draw.normal()), "std": float(draw.uniform(0.5, 2))}
        feature |= {"relative": bool(of in ("item", "candidate") and draw.random() < 0.5)}
        feature |= {"transform": str(draw.choice(["none", "log"]))}
    elif kind == "vector":
        feature |= {"width": int(draw.integers(1, 4))}
        feature |= {"input": bool(of != "item" or draw.random() < 0.7)}
    else:
        feature |= {"vocabulary": WORDS[: int(draw.integers(1, 6))]}
        feature |= {"width": int(draw.integers(1, 4))} if kind == "categories" else {}
    if draw.random() < 0.5:
        feature |= {"default": random_value(draw, feature)}
    return feature


def random_value(draw, feature):
    """Return a raw value of a feature, in or out of its vocabulary."""
    kind = feature["kind"]
    if kind in ("number", "statistic"):
        return float(draw.exponential())
    if kind == "vector":
        return draw.normal(size=feature.get("width", 1)).tolist()
    if feature["name"] == "item_id":
        return str(draw.choice([*ITEMS, UNKNOWN]))
    if kind == "categories":
        return draw.choice(WORDS, int(draw.integers(0, 5))).tolist()
    return str(draw.choice(WORDS))


def random_table(draw, schema):
    """Return encoded features of ITEMS."""
    empty = {f.name: np.zeros((0, f.width), np.float32) for f in schema.features}
    shape = sum(f.of == "item" and f.kind == "number" for f in schema.features)
    width = sum(f.slots for f in schema.features if f.of == "item")
    nothing = ItemTable((), np.zeros((0, shape), np.float32), np.zeros((0, width), int), empty)
    encoder = Featuriser(schema, nothing)
    numbers, tokens = np.zeros((len(ITEMS), shape), np.float32), [np.zeros((len(ITEMS), 0), int)]
    slots, vectors, place = slots_of(schema), {}, 0
    for feature in (f for f in schema.features if f.of == "item"):
        raw = {"name": feature.name, "kind": feature.kind, "width": feature.width}
        values: Any = [random_value(draw, raw) if draw.random() < 0.8 else None for _ in ITEMS]
        if feature.name == "item_id":
            values = ITEMS
        whole = encoder.transform(CandidateList(ITEMS, columns={feature.name: values}))
        if feature.slots:
            tokens.append(whole[1][:, slots[feature.name]])
        elif feature.kind == "number":
            numbers[:, place] = whole[0][:, encoder.column(feature.name)]
            place += 1
        else:
            zeros = [0.0] * feature.width
            vectors[feature.name] = np.array([v or zeros for v in values], np.float32)
    return ItemTable(ITEMS, numbers, np.concatenate(tokens, axis=1), vectors)


def slots_of(schema):
    """Return the token slots of each feature that has some."""
    slots, first = {}, 0
    for feature in schema.features:
        slots[feature.name] = slice(first, first + feature.slots)
        first += feature.slots
    return slots


def random_list(draw, schema, inline=True):
    """Return a list of known and unknown items with every kind of inline feature."""
    size = int(draw.integers(1, 7))
    ids = [str(item) for item in draw.choice([*ITEMS, UNKNOWN, "x", "y"], size, replace=False)]
    raw = [{"name": f.name, "kind": f.kind, "width": f.width, "of": f.of} for f in schema.features]
    records = [
        {
            f["name"]: random_value(draw, f) if draw.random() < 0.8 else None
            for f in raw
            if f["of"] in ("item", "candidate") and draw.random() < 0.5
        }
        for _ in ids
    ]
    past = draw.choice([*ITEMS, UNKNOWN], int(draw.integers(0, 8)), replace=False).tolist()
    some = {
        owner: {
            f["name"]: random_value(draw, f)
            for f in raw
            if f["of"] == owner and f["name"] != "user_id" and draw.random() < 0.7
        }
        for owner in ("user", "context")
    }
    return CandidateList(
        ids,
        features=records if inline else (),
        user_id=str(draw.choice(["u1", "u9"])),
        user=some["user"],
        context=some["context"],
        history=[(item, float(draw.random() < 0.5)) for item in past],
    )


def random_weights(draw, featuriser, width=4):
    """Return the weights of each network's embedding; the token 0 has no embedding."""
    weights = {}
    for number, network in enumerate(NETWORKS):
        size = width + number  # the networks may differ in width
        projection = draw.normal(size=(featuriser.numbers_width, size)).astype(np.float32)
        embeddings = draw.normal(size=(featuriser.vocabulary_size, size)).astype(np.float32)
        embeddings[0] = 0.0
        weights[network] = Weights(projection, embeddings)
    return weights
