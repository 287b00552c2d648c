"""Read a canonical data set (docs/data.md), fit its schema on the train split, build arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from tqdm import tqdm

from model.sources import DataError
from service.feature_schema import NUMBER_KINDS, Feature, Schema
from service.features import Featuriser, Integers, ItemTable, Request, encode_number, encode_vector

BASE = ("request_id", "user_id", "timestamp", "position", "item_id", "label", "split")


@dataclass(frozen=True)
class Impression:
    """One shown list: the request as the service would get it, and what the user did."""

    request_id: str
    user_id: str
    split: str
    request: Request
    labels: tuple[float, ...]  # in shown order, 0..1


@dataclass(frozen=True)
class Lists:
    """R candidate lists as padded arrays; N is the longest list.

    numbers float32 [R, N, F], tokens int64 [R, N, T], mask bool [R, N], labels float32 [R, N]
    (0 where padded).
    """

    numbers: np.ndarray[Any, Any]
    tokens: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    users: tuple[str, ...]
    request_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.mask)

    def take(self, index: Sequence[int] | Integers | slice) -> Lists:
        """The lists at `index`."""
        rows = np.arange(len(self))[index]
        return Lists(
            self.numbers[rows],
            self.tokens[rows],
            self.mask[rows],
            self.labels[rows],
            tuple(self.users[i] for i in rows),
            tuple(self.request_ids[i] for i in rows),
        )

    def rankable(self) -> Lists:
        """Only lists with a positive and a negative: the others tell nothing about order."""
        positives = (self.labels > 0.5).sum(axis=1)
        return self.take(np.flatnonzero((positives > 0) & (positives < self.mask.sum(axis=1))))


class Dataset:
    """A canonical data set with its fitted featuriser. Raises DataError where there is none."""

    def __init__(self, directory: Path) -> None:
        if not (directory / "schema.yaml").exists():
            raise DataError(directory, "a prepared data set (python -m model prepare)")
        self.directory = directory
        payload = yaml.safe_load((directory / "schema.yaml").read_text(encoding="utf-8"))
        self.rows = pl.read_parquet(directory / "impressions.parquet")
        self.items = pl.read_parquet(directory / "items.parquet")
        self.users = pl.read_parquet(directory / "users.parquet")
        given = directory / "histories.parquet"
        self.histories = pl.read_parquet(given) if given.exists() else None
        self.featuriser = fit(Schema.from_dict(payload), self.rows, self.items, self.users)

    def digest(self) -> str:
        """SHA-256 over the files of the data set: what a training run belongs to."""
        together = hashlib.sha256()
        names = ["schema.yaml", "impressions.parquet", "items.parquet", "users.parquet"]
        for name in names + ([] if self.histories is None else ["histories.parquet"]):
            with (self.directory / name).open("rb") as file:
                together.update(hashlib.file_digest(file, "sha256").digest())
        return together.hexdigest()

    def impressions(self, splits: Sequence[str]) -> Iterator[Impression]:
        """The lists of these splits, each with the history it may know.

        Where the data set has histories, a list knows its own. Else a train list knows the user's
        other train lists, earlier ones before later ones where the limit leaves no room for all (a
        list of the same age as those met in serving is what the kernels must learn from); any other
        list knows what the user answered before it.
        """
        schema = self.featuriser.schema
        users = {row["user_id"]: row for row in self.users.iter_rows(named=True)}
        user_names = [f.name for f in schema.features if f.of == "user" and f.name != "user_id"]
        inline = [name for name in self.rows.columns if name not in BASE]
        owner = {feature.name: feature.of for feature in schema.features}
        candidate_names = [n for n in inline if owner.get(n) in ("candidate", "item")]
        context_names = [n for n in inline if owner.get(n) == "context"]
        given = None
        if self.histories is not None:
            given = self.histories.partition_by("request_id", as_dict=True, include_key=False)
        by_user: dict[str, list[dict[str, Any]]] = {}
        for group in self.rows.partition_by("request_id", maintain_order=True):
            columns = group.to_dict(as_series=False)
            by_user.setdefault(columns["user_id"][0], []).append(columns)
        for user, lists in by_user.items():
            lists.sort(key=lambda columns: columns["timestamp"][0])
            for index, columns in enumerate(lists):
                split = columns["split"][0]
                if split not in splits:
                    continue
                if given is None:
                    history = _history(lists, index, schema.history.limit)
                else:
                    own = given.get((columns["request_id"][0],))
                    history = [] if own is None else list(own.iter_rows())
                features = [
                    {n: columns[n][i] for n in candidate_names if columns[n][i] is not None}
                    for i in range(len(columns["item_id"]))
                ]
                scores = [entry.pop("score", None) for entry in features]
                request = Request(
                    ids=columns["item_id"],
                    scores=scores,
                    features=features if any(features) else (),
                    user_id=user,
                    user={n: users[user].get(n) for n in user_names} if user in users else {},
                    history=history[-schema.history.limit :],
                    context={n: columns[n][0] for n in context_names},
                )
                yield Impression(
                    columns["request_id"][0], user, split, request, tuple(columns["label"])
                )

    def lists(self, splits: Sequence[str], most: int | None = None) -> Lists:
        """Featurise the (first `most`) lists of these splits, with the featuriser that serves."""
        wanted = self.rows.filter(pl.col("split").is_in(list(splits)))
        total = min(wanted["request_id"].n_unique(), most or len(wanted))
        longest = wanted.group_by("request_id").len()["len"].max()
        width = int(longest) if isinstance(longest, int) else 0
        arrays = Lists(
            np.zeros((total, width, self.featuriser.numbers_width), np.float32),
            np.zeros((total, width, self.featuriser.tokens_width), np.int64),
            np.zeros((total, width), np.bool_),
            np.zeros((total, width), np.float32),
            (),
            (),
        )
        users, request_ids = [], []
        name = "+".join(splits)
        for row, impression in enumerate(
            tqdm(islice(self.impressions(splits), total), f"features {name}", total, leave=False)
        ):
            size = len(impression.labels)
            numbers, tokens = self.featuriser.transform(impression.request)
            arrays.numbers[row, :size], arrays.tokens[row, :size] = numbers, tokens
            arrays.mask[row, :size] = True
            arrays.labels[row, :size] = impression.labels
            users.append(impression.user_id)
            request_ids.append(impression.request_id)
        return dataclasses.replace(arrays, users=tuple(users), request_ids=tuple(request_ids))


def _history(lists: Sequence[dict[str, Any]], index: int, limit: int) -> list[tuple[str, float]]:
    """What list `index` of a user's lists in time may know, `limit` entries at most."""
    train = lists[index]["split"][0] == "train"

    def answers(columns: dict[str, Any]) -> list[tuple[str, float]]:
        if train and columns["split"][0] != "train":
            return []
        return list(zip(columns["item_id"], columns["label"], strict=True))

    history: list[tuple[str, float]] = []
    for earlier in reversed(lists[:index]):
        if len(history) >= limit:
            break
        history = answers(earlier) + history
    history = history[-limit:]
    for later in lists[index + 1 :] if train else ():
        if len(history) >= limit:
            break
        history += answers(later)
    return history[:limit]


def fit(schema: Schema, rows: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame) -> Featuriser:
    """Means, deviations and vocabularies from what the train split shows, nothing else."""
    train = rows.filter(pl.col("split") == "train")
    shown_items = items.filter(pl.col("item_id").is_in(train["item_id"].unique().implode()))
    train_users = users.filter(pl.col("user_id").is_in(train["user_id"].unique().implode()))
    sources = {
        "item": shown_items,
        "user": train_users,
        "context": train.unique("request_id", keep="first", maintain_order=True),
        "candidate": train,
    }
    features = []
    for feature in schema.features:
        source = sources[feature.of]
        column = source[feature.name] if feature.name in source.columns else pl.Series([])
        features.append(_fit_feature(feature, column.drop_nulls().to_list()))
        if feature.kind == "statistic" and feature.default is None:
            mean = np.clip((train["label"].to_numpy() > 0.5).mean(), 1e-3, 1.0 - 1e-3).item()
            features[-1] = dataclasses.replace(features[-1], default=math.log(mean / (1.0 - mean)))
    fitted = dataclasses.replace(schema, features=tuple(features))
    return Featuriser(fitted, _item_table(fitted, items))


def _fit_feature(feature: Feature, values: list[Any]) -> Feature:
    if feature.slots:
        flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
        counts = Counter(str(value) for value in flat)
        vocabulary = sorted(v for v, count in counts.items() if count >= feature.min_count)
        return dataclasses.replace(feature, vocabulary=tuple(vocabulary))
    if feature.kind in NUMBER_KINDS and values:
        column = np.array([feature.transformed(float(value)) for value in values])
        mean, std = float(column.mean()), float(column.std())
        constant = std < 1e-6 * max(1.0, abs(mean))  # but for rounding
        return dataclasses.replace(feature, mean=mean, std=1.0 if constant else std)
    return feature


def _item_table(schema: Schema, items: pl.DataFrame) -> ItemTable:
    """Encode every item with the encoders that inline features go through."""
    own = [feature for feature in schema.features if feature.of == "item"]
    encoder = Featuriser(schema, _empty_table(own))
    number_features = [feature for feature in own if feature.kind in NUMBER_KINDS]
    token_features = [feature for feature in own if feature.slots]
    vector_features = [feature for feature in own if feature.kind == "vector"]
    numbers = np.zeros((len(items), len(number_features)), np.float32)
    tokens = np.zeros((len(items), sum(f.slots for f in token_features)), np.int64)
    vectors = {f.name: np.zeros((len(items), f.width), np.float32) for f in vector_features}
    for index, row in enumerate(items.iter_rows(named=True)):
        path = f"items.parquet[{index}]"

        def value(feature: Feature, row: dict[str, Any] = row) -> Any:
            found = row.get(feature.name)
            return feature.default if found is None else found

        numbers[index] = [encode_number(f, value(f), f"{path}.{f.name}") for f in number_features]
        if token_features:
            tokens[index] = np.concatenate(
                [encoder.encode_tokens(f, value(f), f"{path}.{f.name}") for f in token_features]
            )
        for feature in vector_features:
            where = f"{path}.{feature.name}"
            vectors[feature.name][index] = encode_vector(feature, value(feature), where)
    return ItemTable(tuple(items["item_id"].to_list()), numbers, tokens, vectors)


def _empty_table(own: list[Feature]) -> ItemTable:
    return ItemTable(
        (),
        np.zeros((0, sum(f.kind in NUMBER_KINDS for f in own)), np.float32),
        np.zeros((0, sum(f.slots for f in own)), np.int64),
        {f.name: np.zeros((0, f.width), np.float32) for f in own if f.kind == "vector"},
    )
