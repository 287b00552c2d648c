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

from model.data import chunks
from model.data.chunks import equal_runs
from model.data.errors import DataError
from model.data.fitting import fit
from model.data.histories import ListColumns, build_history
from model.data.layout import COLUMNS
from model.data.lists import Arrays, Lists, build_in_files, build_in_memory
from model.data.schemas import load_schema
from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import FeatureError
from service.engine.features.featuriser import Featuriser

LISTS_PER_BLOCK = 1024  # lists featurised before they are put where they belong
# Bytes of arrays that stay in memory; RankLens' train split takes 92 MB.
MEMORY_LIMIT = 128 << 20


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

    def __init__(self, directory: Path, memory: int = MEMORY_LIMIT) -> None:
        if not (directory / "schema.yaml").exists():
            raise DataError(directory, "a prepared data set (python -m model prepare)")
        self.directory, self.memory = directory, memory
        self._featurised: dict[tuple[str | int | None, ...], Lists] = {}
        schema = load_schema(directory / "schema.yaml")
        self.rows = _scan_parquet(directory / "impressions.parquet")
        self.items = _scan_parquet(directory / "items.parquet").collect()
        self.users = _scan_parquet(directory / "users.parquet").collect()
        histories = directory / "histories.parquet"
        self.histories = _scan_parquet(histories).collect() if histories.exists() else None
        self.featuriser = fit(schema, self.rows, self.items, self.users)

    def digest(self) -> str:
        """SHA-256 over the files of the data set: what a training run belongs to."""
        digest = hashlib.sha256()
        names = ["schema.yaml", "impressions.parquet", "items.parquet", "users.parquet"]
        for name in names + ([] if self.histories is None else ["histories.parquet"]):
            with (self.directory / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def _user_table(self) -> pl.DataFrame:
        """user_id, split, lists, longest, run; users in order of first appearance.

        A run is some users who follow each other, with about ROWS_AT_ONCE rows together.
        """
        totals = pl.col("lists").sum(), pl.col("longest").max(), pl.col("rows").sum()
        merged: list[pl.DataFrame] = []
        for chunk in chunks.read_chunks(self.rows.select("request_id", "user_id", "split")):
            requests = chunk.group_by("request_id", maintain_order=True).agg(
                pl.col("user_id", "split").first(), rows=pl.len()
            )
            requests = requests.with_columns(lists=pl.lit(1), longest=pl.col("rows"))
            joined = pl.concat([*merged, requests.drop("request_id")], how="diagonal")
            merged = [joined.group_by("user_id", "split", maintain_order=True).agg(totals)]
        users = merged[0].group_by("user_id", maintain_order=True).agg(pl.col("rows").sum())
        users = users.select(
            "user_id", chunk=(pl.col("rows").cum_sum() - 1) // chunks.ROWS_PER_CHUNK
        )
        return users.join(merged[0], on="user_id", how="left", maintain_order="left")

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
        owners = {feature.name: feature.of for feature in schema.features}
        candidate_names = [n for n in inline if owners.get(n) in ("candidate", "item")]
        context_names = [n for n in inline if owners.get(n) == "context"]
        histories = None
        if self.histories is not None:
            histories = self.histories.partition_by("request_id", as_dict=True, include_key=False)
        for user, lists in self._iterate_users(splits):
            for index, columns in enumerate(lists):
                split = columns["split"][0]
                if split not in splits:
                    continue
                if histories is None:
                    history = build_history(lists, index, schema.history.limit)
                else:
                    entries = histories.get((columns["request_id"][0],))
                    history = [] if entries is None else list(entries.iter_rows())
                candidates = [
                    {n: columns[n][i] for n in candidate_names if columns[n][i] is not None}
                    for i in range(len(columns["item_id"]))
                ]
                # What POST /rerank has a field for: an item's own `score` is no first stage's.
                scored = owners.get("score") == "candidate"
                scores = [entry.pop("score", None) if scored else None for entry in candidates]
                request = CandidateList(
                    ids=columns["item_id"],
                    scores=scores,
                    features=candidates if any(candidates) else (),
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
        ids = [
            (columns["request_id"][0], columns["user_id"][0])
            for _, lists in self._iterate_users(splits)
            for columns in lists
            if columns["split"][0] in splits
        ]
        return pl.DataFrame(ids, ["request_id", "user_id"], orient="row")

    def _iterate_users(
        self, splits: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], list[ListColumns]]]:
        """Features and lists, by time, of each user; runs without any of these splits are skipped.

        A pass over the file for each run: to sort it by user would take room for all of it.
        """
        with_splits = self._user_table.filter(pl.col("split").is_in(splits))
        for chunk in with_splits["chunk"].unique(maintain_order=True):
            users = self._user_table.filter(pl.col("chunk") == chunk)
            ids = users["user_id"].unique(maintain_order=True)
            of_chunk = pl.col("user_id").is_in(ids.implode())
            rows = self.rows.filter(of_chunk).collect(engine="streaming")
            number = ids.to_frame().with_row_index("__number")  # no feature is named so
            rows = rows.join(number, on="user_id", how="left", maintain_order="left")
            rows = rows.sort("__number", "timestamp", maintain_order=True).drop("__number")
            features = {
                row["user_id"]: row for row in self.users.filter(of_chunk).iter_rows(named=True)
            }
            for start, stop in equal_runs(rows["user_id"]):
                user_rows = rows[start:stop]
                columns = {column.name: column.to_list() for column in user_rows.iter_columns()}
                lists = [
                    {name: values[first:last] for name, values in columns.items()}
                    for first, last in equal_runs(user_rows["request_id"])
                ]
                yield features.get(columns["user_id"][0], {}), lists

    def lists(self, splits: Sequence[str], limit: int | None = None) -> Lists:
        """Featurise the (first `most`) lists of these splits, with the featuriser that serves.

        What was made once is kept.
        """
        key = (*splits, limit)
        if key not in self._featurised:
            self._featurised[key] = self._featurise(splits, limit)
        return self._featurised[key]

    def _featurise(self, splits: Sequence[str], limit: int | None) -> Lists:
        users = self._user_table.filter(pl.col("split").is_in(splits))
        total = int(users["lists"].sum())
        total = min(total, limit or total)
        longest = int(users.select(pl.col("longest").max()).item() or 0)
        shape = total, longest, self.featuriser.numbers_width, self.featuriser.tokens_width
        blocks = self._blocks(splits, shape)
        if total * sum(array.nbytes for array in Arrays.zeros(1, *shape[1:])) <= self.memory:
            return build_in_memory(shape, blocks)
        key = hashlib.sha256(f"{self.digest()} {limit}".encode())
        for path in _code_files():
            key.update(path.read_bytes())
        cache = self.directory.with_name(f"{self.directory.name}.arrays")
        return build_in_files(cache / f"{'+'.join(splits)}-{key.hexdigest()[:16]}", shape, blocks)

    def _blocks(self, splits: Sequence[str], shape: tuple[int, int, int, int]) -> Iterator[Arrays]:
        total = shape[0]
        name = f"features {'+'.join(splits)}"
        impressions = iter(tqdm(islice(self.impressions(splits), total), name, total, leave=False))
        for start in range(0, total, LISTS_PER_BLOCK):
            block = Arrays.zeros(min(LISTS_PER_BLOCK, total - start), *shape[1:])
            for row, impression in enumerate(islice(impressions, len(block.mask))):
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


def _code_files() -> list[Path]:
    """The modules that make the arrays: arrays that other code made are of no use."""
    modules = [Path(inspect.getfile(maker)) for maker in (Dataset, fit, equal_runs, build_history)]
    return [*modules, *sorted(Path(inspect.getfile(Featuriser)).parent.glob("*.py"))]


def _scan_parquet(path: Path) -> pl.LazyFrame:
    """A table of a data set; its end, which a broken copy lacks, is read at once."""
    try:
        frame = pl.scan_parquet(path)
        frame.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(path, f"unreadable ({str(error).splitlines()[0]})") from None
    return frame
