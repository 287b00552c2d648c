"""Find the list of each event by its request, and count the events that have none.

Every event is counted once: a joined one in the part of its list, any other one in the part of its
arrival.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from model.data.join.options import SKEW_MS, JoinOptions, Part

LIST_KEYS = ("request_id", "request", "user_id", "timestamp", "reason")


def first_of_each(events: pl.LazyFrame) -> pl.LazyFrame:
    """Return events with the outcome `duplicate` on all but the first of each id.

    An id is of its user, and without one of its request. Repeated records are one event. A record
    that the service took for a repetition counts if no other of its id is on record: a worker that
    was killed between the store's commit and the journal's flush has lost the first one.
    """
    owner = pl.coalesce(
        pl.lit("u") + pl.col("user_id"), pl.lit("r") + pl.col("request"), pl.lit("")
    )
    ordered = (
        events.sort(pl.col("outcome") == "duplicate", "at", "record")
        .unique("record", keep="first", maintain_order=True)
        .with_columns(owner.alias("owner"))
    )
    is_first = pl.int_range(pl.len()).over("owner", "event_id") == 0
    outcome = pl.when(is_first).then(pl.lit("accepted")).otherwise(pl.lit("duplicate"))
    return ordered.with_columns(outcome.alias("outcome")).drop("owner")


def match(
    events: pl.DataFrame,
    lists: pl.LazyFrame,
    part: Part,
    options: JoinOptions,
) -> tuple[pl.DataFrame, Counter[str]]:
    """Return the events on lists of a part with their `list`, and the number of each outcome.

    Args:
        events: of the part and the waits around it, as `first_of_each` returns them.
        lists: LIST_KEYS of all lists that are on record up to the end of the wait.
    """
    accepted = events.filter(pl.col("outcome") == "accepted")
    named = accepted.filter(pl.col("request").is_not_null())
    keys = lists.select(LIST_KEYS).join(
        named.lazy().select("request").unique(), on="request", how="semi"
    )
    pairs = named.join(
        keys.rename({"request_id": "list", "user_id": "list_user"}).collect(), on="request"
    )
    # No event is about a list that came after it, except by the difference of two clocks.
    pairs = pairs.filter(pl.col("at") >= pl.col("timestamp") - SKEW_MS)
    is_timely = pl.col("at") <= pl.col("timestamp") + options.wait
    same_user = pl.col("user_id").is_null() | pl.col("user_id").eq_missing(pl.col("list_user"))
    timely = pairs.filter(is_timely)
    several = timely.filter(pl.len().over("record") > 1)["record"].unique()
    alone = timely.filter(~pl.col("record").is_in(several.implode()))
    joined = alone.filter(same_user & _is_used())
    late = pairs.join(timely, on="record", how="anti")["record"].unique()
    orphaned = named.join(pairs, on="record", how="anti")["record"]

    arrived = events.filter(pl.col("at").is_between(part.start, part.end, closed="left"))
    records = {
        "duplicate": events.filter(pl.col("outcome") == "duplicate")["record"],
        "without a request": accepted.filter(pl.col("request").is_null())["record"],
        "orphaned": orphaned,
        "late": late,
        "ambiguous": several,
        "of another user": alone.filter(~same_user & _is_used())["record"],
        "on a list left out": alone.filter(~_is_used())["record"],
    }
    here = pl.col("timestamp").is_between(part.start, part.end, closed="left")
    joined = joined.filter(here)
    counts = Counter({"joined": len(joined)})
    for outcome, of_outcome in records.items():
        of_part = arrived.filter(pl.col("record").is_in(of_outcome.implode()))
        counts[outcome] = len(of_part)
    return joined, counts


def _is_used() -> pl.Expr:
    """Return true where a list is used, now or by the part that it belongs to."""
    return pl.col("reason").is_null() | (pl.col("reason") == "later")
