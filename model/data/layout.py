"""Names of the columns, splits and files of a canonical data set (docs/data.md)."""

COLUMNS = ("request_id", "user_id", "timestamp", "position", "item_id", "label", "split")
SPLITS = ("train", "valid", "test", "history")
IMPRESSIONS = "impressions.parquet"
CANDIDATES, HISTORIES = "candidates.parquet", "histories.parquet"
# The impressions of a data set in shards: their list, and the directory of their files.
SHARDS, SHARD_FILES = "shards.json", "impressions"
FILES = (
    "schema.yaml",
    IMPRESSIONS,
    SHARDS,
    SHARD_FILES,
    CANDIDATES,
    HISTORIES,
    "items.parquet",
    "users.parquet",
    "statistics.parquet",
    "summary.json",
)
