"""Names of the columns, splits and files of a canonical data set (docs/data.md)."""

COLUMNS = ("request_id", "user_id", "timestamp", "position", "item_id", "label", "split")
SPLITS = ("train", "valid", "test", "history")
FILES = (
    "schema.yaml",
    "impressions.parquet",
    "histories.parquet",
    "items.parquet",
    "users.parquet",
    "statistics.parquet",
    "summary.json",
)
