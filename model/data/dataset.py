"""Read a canonical data set (docs/data.md) and featurise its lists."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import polars as pl
from tqdm import tqdm

from model.data.errors import DataError
from model.data.fitting import fit
from model.data.growth import grow
from model.data.histories import HistoryWindow
from model.data.layout import CANDIDATES, HISTORIES, IMPRESSIONS, SHARDS
from model.data.lists import Arrays, Lists, build_in_files, build_in_memory, join_files
from model.data.moment import AGAIN, read_moment
from model.data.rated_rows import read_snapshot
from model.data.requests import RequestBuilder
from model.data.schemas import load_schema
from model.data.served_lists import ServedRequests
from model.data.shard_files import check_files, impression_files, read_shards
from model.data.train_values import numbers_over_time
from model.data.user_lists import UserLists
from service.engine.features.candidates import CandidateList
from service.engine.features.encoding import FeatureError
from service.engine.features.featuriser import Featuriser
from service.engine.features.schema import Schema

LISTS_PER_BLOCK = 1024  # lists featurised before they are copied or written
BYTES_PER_BLOCK = 128 << 20  # of their arrays; wide lists have fewer in a block
MEMORY_LIMIT = 128 << 20  # bytes of arrays per split; RankLens' train split takes 92 MB


@dataclass(frozen=True)
class Impression:
    """One displayed slate: the request as the service would receive it, and the user's labels.

    whole: the request with all candidates of a list that was served, in initial order, and the
    place in it of each displayed item; None for other lists.
    """

    request_id: str
    user_id: str
    split: str
    request: CandidateList
    labels: tuple[float, ...]  # 0..1, in display order
    whole: tuple[CandidateList, list[int]] | None = None


class Dataset:
    """A canonical data set with a featuriser fitted on its train split.

    Items and users are held in memory. The log is read in chunks. Arrays of a split that take more
    than `memory` bytes are written to files beside the data set.

    With the `earlier` schema of a checkpoint, numbers are normalised as there and vocabularies
    grow (model.data.growth). A `featuriser` that was fitted on the same data is not fitted again.

    Raises DataError if the directory holds no data set or a broken file, FeatureError if an item
    breaks the schema, SchemaError if the schema differs from `earlier`.
    """

    def __init__(
        self,
        directory: Path,
        memory: int = MEMORY_LIMIT,
        earlier: Schema | None = None,
        featuriser: Featuriser | None = None,
    ) -> None:
        if not (directory / "schema.yaml").exists():
            raise DataError(
                directory, "holds no data set; write one with `python -m model prepare`"
            )
        self.directory, self.memory, self._earlier = directory, memory, earlier
        self._featurised: dict[tuple[str | int | range | None, ...], Lists] = {}
        schema = load_schema(directory / "schema.yaml")
        self.shards = read_shards(directory)
        self.rows = _scan_parquet(impression_files(directory))
        check_files(directory, self.shards)
        self.items = _scan_parquet([directory / "items.parquet"]).collect()
        self.users = _scan_parquet([directory / "users.parquet"]).collect()
        self.histories, self.candidates = (
            _scan_parquet([directory / name]) if (directory / name).exists() else None
            for name in (HISTORIES, CANDIDATES)
        )
        self.moment = read_moment(directory)
        snapshot = read_snapshot(directory, self.moment, len(self.items))
        timed, counts = (None, snapshot) if self.moment is None else (snapshot, None)
        self.featuriser = featuriser or fit(
            schema, self.rows, self.items, self.users, timed, earlier, counts
        )

    @property
    def arrays(self) -> Path:
        """Return the directory of arrays in files, beside the data set."""
        return self.directory.with_name(f"{self.directory.name}.arrays")

    def digest(self) -> str:
        """Return the SHA-256 over the files that training reads; a run recognises its data by it.

        statistics.parquet is left out: it follows from the other files, no training reads it, and
        runs that began without it go on only with their digest. Its totals are in the moment.
        """
        digest = hashlib.sha256()
        # The list of the shards holds the digests of their files.
        rows = SHARDS if self.shards else IMPRESSIONS
        names = ["schema.yaml", rows, "items.parquet", "users.parquet"]
        names += [] if self.histories is None else [HISTORIES]
        for name in names + ([] if self.candidates is None else [CANDIDATES]):
            with (self.directory / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        if self.moment is not None:
            digest.update(repr(self.moment).encode())
        return digest.hexdigest()

    @cached_property
    def _by_user(self) -> list[UserLists]:
        """Return readers of the lists, one for each shard, or one for the only file."""
        shards = [shard.scan(self.directory) for shard in self.shards] or [self.rows]
        tables = self.users, self.histories, self.candidates
        return [UserLists(rows, *tables) for rows in shards]

    def impressions(
        self, splits: Sequence[str], fresh: bool = False, shards: Sequence[int] | None = None
    ) -> Iterator[Impression]:
        """Yield the lists of these splits, user by user, each with its history.

        The history is the entry of histories.parquet if the data set has that file, else it is
        built from the user's other lists (see histories.HistoryWindow). With candidates.parquet,
        the former holds for the lists of that file and the latter for all others.

        Args:
            fresh: a list that is not train carries the item features that the log had at its time.
                By default it carries none, like a request with ids alone, and the item table
                counts. In a data set without a record of its moment they are always carried.
            shards: numbers of the shards to read; by default all.
        """
        schema, names = self.featuriser.schema, self.rows.collect_schema().names()
        builder, of_served = RequestBuilder(schema, names, self.moment, fresh), None
        if self.candidates is not None:
            columns_of_served = self.candidates.collect_schema().names()
            of_served = ServedRequests(schema, columns_of_served, self.moment, fresh)
        ordered = self.moment is not None and self.moment.ordered
        limit, train_answer = schema.history.limit, builder.answer_columns("train")
        readers = self._by_user if shards is None else [self._by_user[n] for n in shards]
        lists = (reader.lists(splits, limit, ordered, train_answer) for reader in readers)
        for one in chain.from_iterable(lists):
            columns, split = one.columns, one.columns["split"][0]
            width = len(builder.answer_columns(split))
            request = builder.build(columns, one.user, [answer[:width] for answer in one.history])
            request_id, user_id = columns["request_id"][0], columns["user_id"][0]
            whole = None
            if of_served is not None and one.served is not None:
                whole = of_served.build(one.served, columns)
            yield Impression(request_id, user_id, split, request, tuple(columns["label"]), whole)

    def requests(self, splits: Sequence[str]) -> pl.DataFrame:
        """Return request_id and user_id of the lists of these splits, in the order of `lists`."""
        ids = [
            rows.filter(pl.col("split").is_in(splits))
            .select("request_id", "user_id")
            .unique("request_id", keep="first", maintain_order=True)
            for shard in self._by_user
            for rows in shard.frames(splits, "request_id", "user_id", "timestamp", "split")
        ]
        none = pl.DataFrame(schema={"request_id": pl.String, "user_id": pl.String})
        return pl.concat([none, *ids])

    def fresh_features(self, splits: Sequence[str]) -> list[str]:
        """Return the item features whose values of the time lists of these splits can carry."""
        inline = self.rows.collect_schema().names()
        features = self.featuriser.schema.features
        names = [f.name for f in features if f.of == "item" and f.name in inline]
        if self.moment is None or not names:
            return []
        rows = self.rows.filter(pl.col("split").is_in(splits))
        present = rows.select(pl.col(names).is_not_null().any()).collect(engine="streaming")
        return [name for name in names if present[name].item()]

    def lists(
        self,
        splits: Sequence[str],
        limit: int | None = None,
        fresh: bool = False,
        shards: range | None = None,
    ) -> Lists:
        """Featurise the lists of these splits, or the first `limit` of them; results are cached.

        Args:
            fresh: as for `impressions`.
            shards: numbers of the shards to read; by default all.
        """
        key = (*splits, limit, fresh, shards)
        if key not in self._featurised:
            every = range(max(1, len(self.shards)))
            lists = self._featurise(splits, limit, fresh, every if shards is None else shards)
            scale = self.featuriser.schema.label
            self._featurised[key] = dataclasses.replace(lists, scale=scale)
        return self._featurised[key]

    def _featurise(
        self, splits: Sequence[str], limit: int | None, fresh: bool, shards: range
    ) -> Lists:
        """Build the arrays in memory, or above `self.memory` bytes in files beside the data set."""
        sizes = self._sizes(splits)
        counts, room = [], limit or sum(lists for lists, _ in sizes)
        for shard in shards:
            counts.append(min(sizes[shard][0], room))
            room -= counts[-1]
        longest = max(longest for _, longest in sizes)  # of all shards, so that their arrays fit
        widths = longest, self.featuriser.numbers_width, self.featuriser.tokens_width
        per_list = sum(array.nbytes for array in Arrays.zeros(1, *widths))
        path = self.arrays / f"{'+'.join(splits)}-{self._arrays_digest(limit, fresh)}"
        if sum(counts) * per_list <= self.memory and not path.exists():
            shape = sum(counts), *widths
            return build_in_memory(shape, self._blocks(splits, shape, fresh, shards))
        if not self.shards:
            shape = counts[0], *widths
            return build_in_files(path, shape, self._blocks(splits, shape, fresh, shards))
        parts = []
        for shard, count in zip(shards, counts, strict=True):
            if count:
                # A directory for each shard, with a lock of its own: processes build it side by
                # side, and a limit that ends in this shard has a name of its own.
                place = path / f"{shard:05d}-{count}" / "arrays"
                shape = count, *widths
                blocks = self._blocks(splits, shape, fresh, range(shard, shard + 1))
                parts.append(build_in_files(place, shape, blocks))
        return join_files(parts)

    def _sizes(self, splits: Sequence[str]) -> list[tuple[int, int]]:
        """Return the number of lists and the longest one of these splits, for each shard."""
        if self.shards:
            of_shards = [[s.splits[n] for n in splits if n in s.splits] for s in self.shards]
            return [
                (
                    sum(size.lists for size in sizes),
                    max((size.longest for size in sizes), default=0),
                )
                for sizes in of_shards
            ]
        table = self._by_user[0].table.filter(pl.col("split").is_in(splits))
        return [(int(table["lists"].sum()), int(table.select(pl.col("longest").max()).item() or 0))]

    def _arrays_digest(self, limit: int | None, fresh: bool) -> str:
        """Return the digest of everything that decides the values of arrays."""
        of_limit = None if self.shards else limit
        key = hashlib.sha256(f"{self.digest()} {of_limit}{' fresh' if fresh else ''}".encode())
        if self._earlier is not None:
            key.update(json.dumps(self.featuriser.schema.to_dict()).encode())
        for path in _code_files():
            key.update(path.read_bytes())
        return key.hexdigest()[:16]

    def _blocks(
        self, splits: Sequence[str], shape: tuple[int, int, int, int], fresh: bool, shards: range
    ) -> Iterator[Arrays]:
        """Yield the arrays of some shards, up to LISTS_PER_BLOCK and BYTES_PER_BLOCK at a time."""
        total = shape[0]
        name = f"features {'+'.join(splits)}"
        lists = islice(self.impressions(splits, fresh, shards), total)
        impressions = iter(tqdm(lists, name, total, disable=None, leave=False))
        per_list = sum(array.nbytes for array in Arrays.zeros(1, *shape[1:]))
        height = max(1, min(LISTS_PER_BLOCK, BYTES_PER_BLOCK // max(per_list, 1)))
        for start in range(0, total, height):
            block = Arrays.zeros(min(height, total - start), *shape[1:])
            for row, impression in enumerate(islice(impressions, len(block.mask))):
                size = len(impression.labels)
                request, places = impression.whole or (impression.request, None)
                try:
                    numbers, tokens = self.featuriser.transform(request)
                except FeatureError as error:
                    file = self.directory / "impressions.parquet"
                    raise DataError(file, f"request {impression.request_id!r}: {error}") from None
                if places is not None:
                    numbers, tokens = numbers[places], tokens[places]
                block.numbers[row, :size], block.tokens[row, :size] = numbers, tokens
                block.mask[row, :size] = True
                block.labels[row, :size] = impression.labels
            yield block


def _code_files() -> list[Path]:
    """Return the modules that make the arrays; a change to one of them invalidates the cache."""
    makers = (
        Dataset, fit, grow, UserLists, HistoryWindow, numbers_over_time, RequestBuilder,
        ServedRequests,
    )  # fmt: skip
    modules = [Path(inspect.getfile(maker)) for maker in makers]
    return [*modules, *sorted(Path(inspect.getfile(Featuriser)).parent.glob("*.py"))]


def _scan_parquet(paths: list[Path]) -> pl.LazyFrame:
    """Scan a table. Reading the schema at once detects a truncated file."""
    for path in paths:
        try:
            pl.scan_parquet(path).collect_schema()
        except (OSError, pl.exceptions.PolarsError) as error:
            rule = f"cannot be read ({str(error).splitlines()[0]}); {AGAIN}"
            raise DataError(path, rule) from None
    return pl.scan_parquet(paths)
