"""Read a canonical data set (docs/data.md), fit its schema on the train split, build arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from tqdm import tqdm

from model.data.errors import DataError
from model.data.lists import Arrays, Lists, in_files, in_memory
from service.engine.features.featuriser import (
    FeatureError,
    Featuriser,
    ItemTable,
    Request,
    encode_number,
    encode_vector,
)
from service.engine.features.schema import NUMBER_KINDS, Feature, Schema, SchemaError

BASE = ("request_id", "user_id", "timestamp", "position", "item_id", "label", "split")
ROWS_AT_ONCE = 1 << 20  # of the log, in memory
BLOCK = 1024  # lists featurised before they are put where they belong
# Bytes of arrays that stay in memory; RankLens' train split takes 92 MB.
MEMORY = 128 << 20

Columns = dict[str, list[Any]]  # of one shown list


def load_schema(path: Path) -> Schema:
    """Read a feature schema. Raises DataError naming file, field and rule."""
    try:
        payload = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(path, f"unreadable ({error})") from None
    if not isinstance(payload, dict):
        raise DataError(path, "a mapping with name and features", value=payload)
    try:
        schema = Schema.from_dict(payload)
    except (SchemaError, TypeError, ValueError, AttributeError) as error:
        raise DataError(path, str(error)) from None
    for feature in schema.features:
        is_id = (feature.name, feature.of) in (("item_id", "item"), ("user_id", "user"))
        taken = feature.name in BASE or feature.name.startswith("__")
        if taken and not (is_id and feature.kind == "identifier"):
            rule = "a name that the log does not use itself, not beginning with __"
            raise DataError(path, f"features.{feature.name}.name: {rule}", value=feature.name)
    return schema


@dataclass(frozen=True)
class Impression:
    """One shown list: the request as the service would get it, and what the user did."""

    request_id: str
    user_id: str
    split: str
    request: Request
    labels: tuple[float, ...]  # in shown order, 0..1


class Dataset:
    """A canonical data set with its fitted featuriser.

    Raises DataError where there is none or a file is broken, FeatureError for an item that breaks
    the schema.

    Items and users are held in memory. The log is not: it is read in pieces, and what `lists`
    makes of it stays in memory up to `memory` bytes and goes to files beside the data set beyond.
    """

    def __init__(self, directory: Path, memory: int = MEMORY) -> None:
        if not (directory / "schema.yaml").exists():
            raise DataError(directory, "a prepared data set (python -m model prepare)")
        self.directory, self.memory = directory, memory
        self._made: dict[tuple[str | int | None, ...], Lists] = {}
        schema = load_schema(directory / "schema.yaml")
        self.rows = _scan(directory / "impressions.parquet")
        self.items = _scan(directory / "items.parquet").collect()
        self.users = _scan(directory / "users.parquet").collect()
        given = directory / "histories.parquet"
        self.histories = _scan(given).collect() if given.exists() else None
        self.featuriser = fit(schema, self.rows, self.items, self.users)

    def digest(self) -> str:
        """SHA-256 over the files of the data set: what a training run belongs to."""
        together = hashlib.sha256()
        names = ["schema.yaml", "impressions.parquet", "items.parquet", "users.parquet"]
        for name in names + ([] if self.histories is None else ["histories.parquet"]):
            with (self.directory / name).open("rb") as file:
                together.update(hashlib.file_digest(file, "sha256").digest())
        return together.hexdigest()

    @cached_property
    def _users(self) -> pl.DataFrame:
        """user_id, split, lists, longest, run; users in order of first appearance.

        A run is some users who follow each other, with about ROWS_AT_ONCE rows together.
        """
        together = pl.col("lists").sum(), pl.col("longest").max(), pl.col("rows").sum()
        found: list[pl.DataFrame] = []
        for piece in pieces(self.rows.select("request_id", "user_id", "split")):
            requests = piece.group_by("request_id", maintain_order=True).agg(
                pl.col("user_id", "split").first(), rows=pl.len()
            )
            requests = requests.with_columns(lists=pl.lit(1), longest=pl.col("rows"))
            joined = pl.concat([*found, requests.drop("request_id")], how="diagonal")
            found = [joined.group_by("user_id", "split", maintain_order=True).agg(together)]
        users = found[0].group_by("user_id", maintain_order=True).agg(pl.col("rows").sum())
        users = users.select("user_id", run=(pl.col("rows").cum_sum() - 1) // ROWS_AT_ONCE)
        return users.join(found[0], on="user_id", how="left", maintain_order="left")

    def impressions(self, splits: Sequence[str]) -> Iterator[Impression]:
        """The lists of these splits, user by user, each with the history it may know.

        Where the data set has histories, a list knows its own. Else a train list knows the user's
        other train lists, earlier ones before later ones where the limit leaves no room for all (a
        list of the same age as those met in serving is what the kernels must learn from); any other
        list knows what the user answered before it.
        """
        schema = self.featuriser.schema
        user_names = [f.name for f in schema.features if f.of == "user" and f.name != "user_id"]
        inline = [name for name in self.rows.collect_schema().names() if name not in BASE]
        owner = {feature.name: feature.of for feature in schema.features}
        candidate_names = [n for n in inline if owner.get(n) in ("candidate", "item")]
        context_names = [n for n in inline if owner.get(n) == "context"]
        given = None
        if self.histories is not None:
            given = self.histories.partition_by("request_id", as_dict=True, include_key=False)
        for user, lists in self._by_user(splits):
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
                # What POST /rerank has a field for: an item's own `score` is no first stage's.
                scored = owner.get("score") == "candidate"
                scores = [entry.pop("score", None) if scored else None for entry in features]
                request = Request(
                    ids=columns["item_id"],
                    scores=scores,
                    features=features if any(features) else (),
                    user_id=columns["user_id"][0],
                    user={n: user.get(n) for n in user_names} if user else {},
                    history=history[-schema.history.limit :],
                    context={n: columns[n][0] for n in context_names},
                )
                labels = tuple(columns["label"])
                yield Impression(
                    columns["request_id"][0], columns["user_id"][0], split, request, labels
                )

    def requests(self, splits: Sequence[str]) -> pl.DataFrame:
        """request_id and user_id of these splits' lists, in the order of `lists`."""
        found = [
            (columns["request_id"][0], columns["user_id"][0])
            for _, lists in self._by_user(splits)
            for columns in lists
            if columns["split"][0] in splits
        ]
        return pl.DataFrame(found, ["request_id", "user_id"], orient="row")

    def _by_user(self, splits: Sequence[str]) -> Iterator[tuple[dict[str, Any], list[Columns]]]:
        """Features and lists, by time, of each user; runs without any of these splits are skipped.

        A pass over the file for each run: to sort it by user would take room for all of it.
        """
        wanted = self._users.filter(pl.col("split").is_in(splits))
        for run in wanted["run"].unique(maintain_order=True):
            users = self._users.filter(pl.col("run") == run)
            ids = users["user_id"].unique(maintain_order=True)
            own = pl.col("user_id").is_in(ids.implode())
            rows = self.rows.filter(own).collect(engine="streaming")
            number = ids.to_frame().with_row_index("__number")  # no feature is named so
            rows = rows.join(number, on="user_id", how="left", maintain_order="left")
            rows = rows.sort("__number", "timestamp", maintain_order=True).drop("__number")
            features = {row["user_id"]: row for row in self.users.filter(own).iter_rows(named=True)}
            for start, stop in _stretches(rows["user_id"]):
                mine = rows[start:stop]
                columns = {column.name: column.to_list() for column in mine.iter_columns()}
                lists = [
                    {name: values[first:last] for name, values in columns.items()}
                    for first, last in _stretches(mine["request_id"])
                ]
                yield features.get(columns["user_id"][0], {}), lists

    def lists(self, splits: Sequence[str], most: int | None = None) -> Lists:
        """Featurise the (first `most`) lists of these splits, with the featuriser that serves.

        What was made once is kept.
        """
        key = (*splits, most)
        if key not in self._made:
            self._made[key] = self._lists(splits, most)
        return self._made[key]

    def _lists(self, splits: Sequence[str], most: int | None) -> Lists:
        users = self._users.filter(pl.col("split").is_in(splits))
        total = int(users["lists"].sum())
        total = min(total, most or total)
        longest = int(users["longest"].max() or 0)
        shape = total, longest, self.featuriser.numbers_width, self.featuriser.tokens_width
        blocks = self._blocks(splits, shape)
        if total * sum(array.nbytes for array in Arrays.zeros(1, *shape[1:])) <= self.memory:
            return in_memory(shape, blocks)
        key = hashlib.sha256(f"{self.digest()} {most}".encode())
        for maker in (Dataset, Featuriser, Schema):
            key.update(Path(inspect.getfile(maker)).read_bytes())
        cache = self.directory.with_name(f"{self.directory.name}.arrays")
        return in_files(cache / f"{'+'.join(splits)}-{key.hexdigest()[:16]}", shape, blocks)

    def _blocks(self, splits: Sequence[str], shape: tuple[int, int, int, int]) -> Iterator[Arrays]:
        total = shape[0]
        name = f"features {'+'.join(splits)}"
        found = iter(tqdm(islice(self.impressions(splits), total), name, total, leave=False))
        for start in range(0, total, BLOCK):
            block = Arrays.zeros(min(BLOCK, total - start), *shape[1:])
            for row, impression in enumerate(islice(found, len(block.mask))):
                size = len(impression.labels)
                try:
                    numbers, tokens = self.featuriser.transform(impression.request)
                except FeatureError as error:
                    file = self.directory / "impressions.parquet"
                    raise DataError(file, f"request {impression.request_id!r}: {error}") from None
                block.numbers[row, :size], block.tokens[row, :size] = numbers, tokens
                block.mask[row, :size] = True
                block.labels[row, :size] = impression.labels
            yield block


def _scan(path: Path) -> pl.LazyFrame:
    """A table of a data set; its end, which a broken copy lacks, is read at once."""
    try:
        frame = pl.scan_parquet(path)
        frame.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(path, f"unreadable ({str(error).splitlines()[0]})") from None
    return frame


def _history(lists: Sequence[Columns], index: int, limit: int) -> list[tuple[str, float]]:
    """What list `index` of a user's lists in time may know, `limit` entries at most."""
    train = lists[index]["split"][0] == "train"

    def answers(columns: Columns) -> list[tuple[str, float]]:
        if train and columns["split"][0] != "train":
            return []
        return list(zip(columns["item_id"], columns["label"], strict=True))

    history: list[tuple[str, float]] = []
    for earlier in range(index - 1, -1, -1):
        if len(history) >= limit:
            break
        history = answers(lists[earlier]) + history
    history = history[-limit:]
    for later in range(index + 1, len(lists) if train else 0):
        if len(history) >= limit:
            break
        history += answers(lists[later])
    return history[:limit]


def _stretches(column: pl.Series) -> list[tuple[int, int]]:
    """First row, and row after the last, of each stretch of equal values."""
    starts = column.ne_missing(column.shift()).arg_true().to_list()
    return list(pairwise([*starts, len(column)]))


def pieces(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The log in its order, about ROWS_AT_ONCE rows at a time, no request cut in two."""
    start, held = 0, rows.head(0).collect()
    while True:
        read = rows.slice(start, ROWS_AT_ONCE).collect(engine="streaming")
        start += ROWS_AT_ONCE
        piece = pl.concat([held, read])
        if len(read) < ROWS_AT_ONCE:
            yield piece
            return
        cut, _ = _stretches(piece["request_id"])[-1]  # the last request may go on
        held = piece[cut:]
        yield piece[:cut]


def fit(
    schema: Schema, rows: pl.DataFrame | pl.LazyFrame, items: pl.DataFrame, users: pl.DataFrame
) -> Featuriser:
    """Means, deviations and vocabularies from what the train split shows, nothing else."""
    train = rows.lazy().filter(pl.col("split") == "train")

    def shown(name: str) -> pl.Expr:
        ids = train.select(name).unique().collect(engine="streaming")
        return pl.col(name).is_in(ids[name].implode())

    tables = {"item": items.filter(shown("item_id")), "user": users.filter(shown("user_id"))}
    inline = rows.lazy().collect_schema().names()

    def columns(feature: Feature) -> Iterator[pl.Series]:
        # An id stands once in its table, so what counts is how often the log has it.
        if feature.of in tables and feature.name not in BASE:
            if feature.name in tables[feature.of].columns:
                yield tables[feature.of][feature.name]
        elif feature.name in inline:
            for piece in pieces(rows.lazy().select("request_id", "split", feature.name)):
                own = piece.filter(pl.col("split") == "train")
                if feature.of in ("context", "user"):
                    own = own.unique("request_id", keep="first", maintain_order=True)
                yield own[feature.name]

    fitted = []
    for feature in schema.features:
        fitted.append(_fit_feature(feature, columns(feature)))
        if feature.kind == "statistic" and feature.default is None:
            positive = train.select((pl.col("label") > 0.5).mean()).collect(engine="streaming")
            mean = float(np.clip(positive.item(), 1e-3, 1.0 - 1e-3))
            fitted[-1] = dataclasses.replace(fitted[-1], default=math.log(mean / (1.0 - mean)))
    complete = dataclasses.replace(schema, features=tuple(fitted))
    return Featuriser(complete, _item_table(complete, items))


def _fit_feature(feature: Feature, columns: Iterable[pl.Series]) -> Feature:
    values = (column.drop_nulls().to_list() for column in columns)
    if feature.slots:
        counts: Counter[str] = Counter()
        for piece in values:
            flat = (v for value in piece for v in (value if isinstance(value, list) else [value]))
            counts.update(map(str, flat))
        vocabulary = sorted(v for v, count in counts.items() if count >= feature.min_count)
        return dataclasses.replace(feature, vocabulary=tuple(vocabulary))
    if feature.kind not in NUMBER_KINDS:
        return feature
    moments = [
        (len(piece), numbers.mean(), numbers.var())
        for piece in values
        if piece
        for numbers in [np.array([feature.transformed(float(value)) for value in piece])]
    ]
    if not moments:
        return feature
    sizes, means, variances = np.array(moments).T
    share = sizes / sizes.sum()
    mean = float((share * means).sum())
    std = float(np.sqrt((share * (variances + (means - mean) ** 2)).sum()))
    constant = std < 1e-6 * max(1.0, abs(mean))  # but for rounding
    return dataclasses.replace(feature, mean=mean, std=1.0 if constant else std)


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
        path = f"items.parquet[{row['item_id']!r}]"

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
