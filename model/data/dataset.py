"""Read a canonical data set (docs/data.md), fit its schema on the train split, build arrays."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from model.data import pieces
from model.data.errors import DataError
from model.data.fitting import fit
from model.data.histories import Columns, history_of
from model.data.layout import COLUMNS
from model.data.lists import Arrays, Lists, in_files, in_memory
from model.data.pieces import stretches
from model.data.schemas import load_schema
from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import FeatureError
from service.engine.features.featuriser import Featuriser

BLOCK = 1024  # lists featurised before they are put where they belong
# Bytes of arrays that stay in memory; RankLens' train split takes 92 MB.
MEMORY = 128 << 20


@dataclass(frozen=True)
class Impression:
    """One shown list: the request as the service would get it, and what the user did."""

    request_id: str
    user_id: str
    split: str
    request: CandidateList
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
        for piece in pieces.whole_requests(self.rows.select("request_id", "user_id", "split")):
            requests = piece.group_by("request_id", maintain_order=True).agg(
                pl.col("user_id", "split").first(), rows=pl.len()
            )
            requests = requests.with_columns(lists=pl.lit(1), longest=pl.col("rows"))
            joined = pl.concat([*found, requests.drop("request_id")], how="diagonal")
            found = [joined.group_by("user_id", "split", maintain_order=True).agg(together)]
        users = found[0].group_by("user_id", maintain_order=True).agg(pl.col("rows").sum())
        users = users.select("user_id", run=(pl.col("rows").cum_sum() - 1) // pieces.ROWS_AT_ONCE)
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
        inline = [name for name in self.rows.collect_schema().names() if name not in COLUMNS]
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
                    history = history_of(lists, index, schema.history.limit)
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
                request = CandidateList(
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
            for start, stop in stretches(rows["user_id"]):
                mine = rows[start:stop]
                columns = {column.name: column.to_list() for column in mine.iter_columns()}
                lists = [
                    {name: values[first:last] for name, values in columns.items()}
                    for first, last in stretches(mine["request_id"])
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
        longest = int(users.select(pl.col("longest").max()).item() or 0)
        shape = total, longest, self.featuriser.numbers_width, self.featuriser.tokens_width
        blocks = self._blocks(splits, shape)
        if total * sum(array.nbytes for array in Arrays.zeros(1, *shape[1:])) <= self.memory:
            return in_memory(shape, blocks)
        key = hashlib.sha256(f"{self.digest()} {most}".encode())
        for path in _code():
            key.update(path.read_bytes())
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


def _code() -> list[Path]:
    """The modules that make the arrays: arrays that other code made are of no use."""
    here = [Path(inspect.getfile(maker)) for maker in (Dataset, fit, stretches, history_of)]
    return [*here, *sorted(Path(inspect.getfile(Featuriser)).parent.glob("*.py"))]


def _scan(path: Path) -> pl.LazyFrame:
    """A table of a data set; its end, which a broken copy lacks, is read at once."""
    try:
        frame = pl.scan_parquet(path)
        frame.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(path, f"unreadable ({str(error).splitlines()[0]})") from None
    return frame
