"""Read new and changed items of a catalogue, encoded by a schema that was fitted before."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.data.dataset import Dataset
from model.data.dialect import Dialect
from model.data.entity_tables import read_entity_table
from model.data.errors import DataError
from model.data.files import find_files
from model.data.fitting import encode_items
from model.data.growth import refuse_differences
from model.data.moment import read_moment
from model.data.rated_rows import read_snapshot
from model.data.rules import Report
from model.data.schemas import load_schema
from service.engine.features.featuriser import Featuriser, ItemTable
from service.engine.features.layout import Layout
from service.engine.features.schema import Schema
from service.engine.features.schema_rules import SchemaError

ITEM_ID = "item_id"
ADVICE = "correct these rows, or leave them out: such items then stay as they are"


@dataclass(frozen=True)
class ItemUpdates:
    """Encoded rows of a table of items.

    names: the features that the table has, in the order of the schema; ignored: its other columns;
    moment: that of the data set whose item table it is, ms since 1970 UTC, else None.
    """

    table: ItemTable
    names: Sequence[str]
    ignored: Sequence[str]
    moment: int | None = None


def read_item_updates(
    paths: Sequence[Path], dialect: Dialect, schema: Schema, layout: Layout
) -> ItemUpdates:
    """Read tables of items as `prepare` does; statistics may stand in them as log-odds.

    Args:
        paths: paths, globs or directories of tables.
        dialect: of text files.
        schema: the fitted schema.
        layout: places and vocabularies of its features.

    Raises DataError for rows that break a rule, for a table without any feature of the schema, and
    for the table of a data set whose schema differs; FeatureError for a value that the schema
    cannot encode.
    """
    files, report = find_files(paths, dialect), Report(advice=ADVICE)
    moments = set()
    for path in files.paths:
        moment = None
        if path.name == "items.parquet" and (path.parent / "schema.yaml").exists():
            refuse_other_schema(path.parent, schema)
            moment = read_moment(path.parent)
        moments.add(None if moment is None else moment.as_of)
    with tempfile.TemporaryDirectory() as scratch:
        table = read_entity_table(files, "item", schema, False, Path(scratch), report, True)
    report.raise_first()
    assert table is not None
    columns = sorted(set(itertools.chain.from_iterable(files.columns)))
    names = [f.name for f in schema.features if f.of == "item" and f.name in table.columns]
    names = [name for name in names if name != ITEM_ID]
    if not names:
        of_items = [f.name for f in schema.features if f.of == "item" and f.name != ITEM_ID]
        rule = f"must have a feature of items, one of {', '.join(of_items) or 'none'}"
        raise DataError(files, rule, value=", ".join(columns))
    ignored = [name for name in columns if name not in (ITEM_ID, *names)]
    as_of = moments.pop() if len(moments) == 1 else None
    return ItemUpdates(encode_items(layout, table, str(files)), names, ignored, as_of)


def refuse_other_schema(directory: Path, schema: Schema) -> None:
    """Raise DataError if a data set declares another schema than that of a fitted model."""
    declared = directory / "schema.yaml"
    try:
        refuse_differences(load_schema(declared), schema)
    except SchemaError as error:
        raise DataError(declared, str(error)) from None


def with_items_of(featuriser: Featuriser, directory: Path) -> Featuriser:
    """Return a fitted featuriser over the items of another data set.

    Raises DataError if the schema of the data set differs.
    """
    schema = featuriser.schema
    refuse_other_schema(directory, schema)
    dataset = Dataset(directory, featuriser=featuriser)
    snapshot = read_snapshot(directory, dataset.moment, len(dataset.items))
    return Featuriser(schema, encode_items(Layout(schema), dataset.items), snapshot)
