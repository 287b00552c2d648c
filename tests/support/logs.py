"""Logs of impressions, and the command that prepares them."""

import contextlib
import hashlib
import io
from pathlib import Path

import polars as pl
import tyro

from model.data.commands import Prepare

ROOT = Path(__file__).parents[2]
EVENTS = ROOT / "data" / "ranklens" / "events.jsonl.gz"
DOC = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
HEADER = "request_id,user_id,timestamp,position,item_id,label,genres,price,hour\n"
LOG = HEADER + (
    "r1,ada,1,0,tea,1,drink|hot,3.5,9\n"
    "r1,ada,1,1,ink,0,office,7,9\n"
    "r2,ada,2,0,pen,1,office|gift,1.5,10\n"
    "r2,ada,2,1,mug,0,,9,10\n"
)
SCHEMA = """
name: shop
features:
  - {name: like_rate, of: item, kind: statistic, prior_strength: 10}
  - {name: genres, of: item, kind: categories, width: 3}
  - {name: price, of: candidate, kind: number}
  - {name: hour, of: context, kind: category}
"""


def prepare(*arguments: object) -> str:
    """Run `prepare` with these arguments and return its output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert tyro.cli(Prepare, args=[str(argument) for argument in arguments]).execute() == 0
    return printed.getvalue()


def keep_users(directory: Path, every: int) -> None:
    """Drop the impressions of all users of a data set but each `every`-th one."""
    path = directory / "impressions.parquet"
    rows = pl.read_parquet(path)
    users = rows["user_id"].unique(maintain_order=True).gather_every(every)
    rows.filter(pl.col("user_id").is_in(users.to_list())).write_parquet(path)


def digest_tree(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a directory, by relative path."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
