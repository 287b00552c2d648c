"""Join a journal part by part: each part is read, matched, labelled and moved into place."""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from tqdm import tqdm

from model.data.errors import DataError
from model.data.join.checking import ServedBundle, check_part, require_served
from model.data.join.durable import move, remove
from model.data.join.erasing import LATEST, forget, without_erased
from model.data.join.labelling import KEY, label_rows, settled_at
from model.data.join.matching import LIST_KEYS, first_of_each, match
from model.data.join.options import JoinOptions, Part
from model.data.join.reading import PartTables, read_part
from model.data.join.records import (
    Span,
    first_moment,
    read_fields,
    read_records,
    spans_of,
)
from model.data.join.state import STATE, State, locked
from model.data.join.tables import (
    CANDIDATES,
    HISTORIES,
    IMPRESSIONS,
    REQUESTS,
    TABLES,
    USERS,
    user_features,
)
from service.journal.records import DecisionRecord, EventRecord
from service.journal.segments import sync_directory

SCRATCH = ".part"
NEW = "new"  # directory of the scratch with the finished files of a part


def join(
    journal: Path,
    out: Path,
    options: JoinOptions,
    until: int,
    bundle: ServedBundle | None = None,
    must_have_served: bool = False,
) -> Counter[str]:
    """Join all parts that are settled and not done yet; return the counts of all parts.

    Args:
        until: time in ms up to which the journal is complete.
        bundle: whose joined lists are compared with those that it served, None for no comparison.
        must_have_served: refuse a bundle that made no list of these parts, if they have lists.

    Raises DataError for a journal or a directory that cannot be used, or if a comparison fails.
    """
    with locked(out), _without_collector():
        state, spans = State.load(out, options), spans_of(journal)
        first = state.end
        if first is None:
            if not spans:
                raise DataError(journal, "must hold a record, got none")
            first = first_moment(spans)
        state.count_late(out, spans)
        parts = [*options.parts(first, until)]
        if bundle is not None and must_have_served and parts:
            require_served(spans, parts[0].start, parts[-1].end, options.model, bundle)
        for part in tqdm(parts, desc="join", leave=False, disable=None):
            counts, read = _join_part(spans, part, options, out, bundle)
            state.add(out, part, counts, read, spans)
            gc.collect()
        start = first - first % options.width if state.end is None else state.end
        unsettled, erased = _unsettled(spans, start, until)
        forget(out, erased)
        return state.counts() + unsettled


def forget_since(journal: Path, out: Path) -> int:
    """Remove the lists of users whose deletion was recorded since the last part; join nothing.

    Returns the number of lists. Raises DataError for a journal or a directory that cannot be used.
    """
    if not (out / STATE).exists():
        return 0
    with locked(out):
        state = State.read(out)
        if state is None or state.end is None:
            return 0
        erased: dict[str, int] = {}
        for _, fields in read_fields(spans_of(journal), state.end, LATEST, "deletions"):
            if fields.get("kind") == "erasure":
                user = fields["user"]
                erased[user] = max(fields["at"], erased.get(user, 0))
        return forget(out, erased)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the collector of cycles: records have none, and decoding them took twice as long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unsettled(
    spans: Sequence[Span], start: int, until: int
) -> tuple[Counter[str], dict[str, int]]:
    """Count the decisions and events that no part has yet; return the deletions beside them.

    Deletions are the last moment in ms of each user.
    """
    counts: Counter[str] = Counter()
    erased: dict[str, int] = {}
    for record in read_records(spans, start, until, Counter(), "unsettled"):
        if isinstance(record, DecisionRecord):
            counts["lists: unsettled"] += 1
        elif isinstance(record, EventRecord):
            counts["events: unsettled"] += 1
        else:
            erased[record.user] = max(record.at, erased.get(record.user, 0))
    return counts, erased


def _join_part(
    spans: Sequence[Span], part: Part, options: JoinOptions, out: Path, bundle: ServedBundle | None
) -> tuple[Counter[str], Counter[str]]:
    """Write the files of a part durably; return its counts and the number of records by segment.

    Killed at any moment, it leaves a part that the next run writes again.
    """
    scratch = out / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    tables = read_part(spans, part, options, scratch, bundle)
    lists = without_erased(tables.lists.scan(), "timestamp", tables.erased)
    following = tables.following.scan()
    events = first_of_each(without_erased(tables.events.scan(), "at", tables.erased)).collect()
    keys = [lists.select(LIST_KEYS), following.select(LIST_KEYS)]
    earlier = sorted((out / REQUESTS).glob("*.parquet"))
    # A run that was killed may have left files of this part.
    if earlier := [path for path in earlier if path.stem < part.name]:
        keys.append(pl.scan_parquet(earlier).select(LIST_KEYS))
    joined, outcomes = match(events, pl.concat(keys), part, options)
    rows = without_erased(tables.rows.scan(), "timestamp", tables.erased)
    log, on_items = label_rows(rows, joined, options.schema)
    settled = settled_at(lists, following, options)
    _write(scratch, part, log, rows, lists, settled, tables, options)
    counts = _counts(scratch, part, lists, outcomes, on_items, tables)
    if bundle is not None:
        counts.update(check_part(spans, part, scratch / NEW, options.schema, bundle))
    for table in TABLES:
        target, file = _file(out, table, part), _file(scratch / NEW, table, part)
        if file.exists():
            move(file, target)
        else:
            remove(target)
    sync_directory(out)
    forget(out, tables.erased)
    shutil.rmtree(scratch)
    return counts, tables.read


def _write(
    scratch: Path,
    part: Part,
    log: pl.LazyFrame,
    rows: pl.LazyFrame,
    lists: pl.LazyFrame,
    settled: pl.LazyFrame,
    tables: PartTables,
    options: JoinOptions,
) -> None:
    """Write the tables of a part that have rows to NEW/NAME/PART.parquet below the scratch."""
    new, by_list = scratch / NEW, ["timestamp", "request_id"]
    impressions = _file(new, IMPRESSIONS, part)
    log.join(settled, on="request_id", how="left").sort(*by_list, "position").sink_parquet(
        impressions
    )
    labelled = pl.scan_parquet(impressions).select(KEY)
    unseen = rows.join(labelled, on=KEY, how="anti").sort(*by_list, "rank")
    unseen.sink_parquet(_file(new, CANDIDATES, part))
    used = lists.filter(pl.col("reason").is_null())
    of_lists = tables.histories.scan().join(
        used.select("request_id"), on="request_id", how="semi", maintain_order="left"
    )
    of_lists.sink_parquet(_file(new, HISTORIES, part))
    names = [feature.name for feature in user_features(options.schema)]
    has_value = pl.any_horizontal(pl.lit(False), *(pl.col(name).is_not_null() for name in names))
    users = used.filter(pl.col("user_id").is_not_null() & has_value)
    of_users = users.select("user_id", "timestamp", *names).sort("user_id", "timestamp")
    # Two lists of one millisecond are of one state of the user.
    of_users.unique(["user_id", "timestamp"], keep="last", maintain_order=True).sink_parquet(
        _file(new, USERS, part)
    )
    lists.join(settled, on="request_id", how="left").sort(by_list).sink_parquet(
        _file(new, REQUESTS, part)
    )
    for file in new.glob("*/*.parquet"):
        if not pl.scan_parquet(file).select(pl.len()).collect().item():
            file.unlink()


def _file(root: Path, table: str, part: Part) -> Path:
    """Return the file of a part, whose directory is made."""
    directory = root / table
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{part.name}.parquet"


def _counts(
    scratch: Path,
    part: Part,
    lists: pl.LazyFrame,
    outcomes: Counter[str],
    on_items: Counter[str],
    tables: PartTables,
) -> Counter[str]:
    counts = Counter({f"events: {name}": n for name, n in (outcomes + on_items).items()})
    counts.update(tables.counts)
    for reason, count in lists.group_by("reason").len().collect().iter_rows():
        counts["lists" if reason is None else f"lists: {reason}"] = count
    file = _file(scratch / NEW, IMPRESSIONS, part)
    if file.exists():
        figures = pl.scan_parquet(file).select(pl.len(), pl.col("request_id").n_unique())
        counts["impressions"], counts["lists: with feedback"] = figures.collect().row(0)
    return counts
