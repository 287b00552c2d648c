"""Ids of lists without a user: each such list is a user of its own."""

from __future__ import annotations

import polars as pl

from model.data.files import Files

# Real ids have no blanks around them (model.data.ids), so none begins like this.
ANONYMOUS = " anonymous "


def name_users(log: pl.LazyFrame) -> pl.LazyFrame:
    """Return the rows with a user id made of the request's where there is none."""
    anonymous = pl.lit(ANONYMOUS) + pl.col("request_id")
    return log.with_columns(pl.coalesce("user_id", anonymous).alias("user_id"))


def is_anonymous(column: str = "user_id") -> pl.Expr:
    """Return where a user id was made by `name_users`."""
    return pl.col(column).str.starts_with(ANONYMOUS)


def note_anonymous(files: Files, count: int) -> None:
    """Note the number of lists without a user, if there are any."""
    if count:
        files.remarks.append(f"{count:,} lists have no user_id; each is a user of its own")


def drop_anonymous(users: pl.DataFrame) -> pl.DataFrame:
    """Return the users without the anonymous ones that have no feature."""
    features = [name for name in users.columns if name != "user_id"]
    has_feature = pl.any_horizontal(pl.lit(False), *(pl.col(n).is_not_null() for n in features))
    return users.filter(~is_anonymous() | has_feature)


def user_of_request(user_id: str) -> str | None:
    """Return the user id that a request carries, None for a user without one."""
    return None if user_id.startswith(ANONYMOUS) else user_id
