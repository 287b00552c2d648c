"""A feature schema of every kind, and a featuriser over three items."""

from typing import Any

import numpy as np

from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.schema import Schema

SCHEMA: dict[str, Any] = {
    "name": "tiny",
    "history": {"limit": 4, "kernels": ["genres", "style"], "rate": "like_rate"},
    "features": [
        {"name": "like_rate", "of": "item", "kind": "statistic", "relative": True},
        {
            "name": "price",
            "of": "item",
            "kind": "number",
            "transform": "log",
            "mean": 1.0,
            "std": 2.0,
        },
        {"name": "brand", "of": "item", "kind": "identifier", "vocabulary": ["acme", "zeta"]},
        {
            "name": "genres",
            "of": "item",
            "kind": "categories",
            "width": 2,
            "vocabulary": ["x", "y"],
        },
        {"name": "style", "of": "item", "kind": "vector", "width": 2, "input": False},
        {"name": "score", "of": "candidate", "kind": "number", "default": -1.0},
        {"name": "hour", "of": "context", "kind": "category", "vocabulary": ["9"], "default": "9"},
        {"name": "age", "of": "user", "kind": "number", "mean": 40.0, "std": 10.0},
    ],
}
# Columns: like_rate with its z-score, rank and distance from the best; price, score, age; two
# kernels of three; what they say together (ridge, its z-score, nearness, echo, its z-score, nearest
# liked and passed over); repeats liked and passed over; size.
RATE, RELATIVE, PRICE, SCORE, AGE, GENRES, STYLE = 0, 1, 4, 5, 6, 7, 10
RIDGE, NEAR, ECHO, NEAREST_LIKED, NEAREST_PASSED = 13, 15, 16, 18, 19
LIKED, PASSED, SIZE = 20, 21, 22
# Token slots: brand, genres x 2, hour. Tokens: 1 brand?, 2 acme, 3 zeta, 4 genre?, 5 x, 6 y, 7, 8.
BRAND, HOUR = 0, 3


def featuriser(**history):
    schema = {**SCHEMA, "history": {**SCHEMA["history"], **history}}
    items = ItemTable(
        ids=("a", "b", "c"),
        numbers=np.array([[1.0, 0.5], [-1.0, 0.0], [0.0, 2.0]], np.float32),
        tokens=np.array([[2, 5, 0], [3, 6, 0], [0, 5, 6]], np.int64),
        vectors={"style": np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], np.float32)},
    )
    return Featuriser(Schema.from_dict(schema), items)
