"""Positives and gains of canonical rows, and the line that prepare prints about grades."""

import numpy as np
import polars as pl
import pytest

from model.data import labels
from service.engine.features.schema import LabelScale
from tests.support.logs import LOG, SCHEMA, prepare

GRADED = LOG.replace("0,tea,1,", "0,tea,4,").replace("0,pen,1,", "0,pen,2,")


@pytest.mark.parametrize(
    "scale",
    [
        LabelScale(),
        LabelScale((0, 3), "linear", 1),
        LabelScale((1, 5), "exponential"),
        LabelScale((0, 7), "binary", 5),
    ],
)
def test_expressions_over_rows_agree_with_the_scale(scale):
    values = [*(np.arange(8) / 7), 1 / 3, 0.5, 0.75]
    rows = pl.DataFrame({"label": pl.Series(values, dtype=pl.Float32)})
    positive = rows.select(labels.is_positive(scale)).to_series().to_numpy()
    gains = rows.select(labels.gain(scale)).to_series().to_numpy()
    assert positive.tolist() == scale.is_positive(rows["label"].to_numpy()).tolist()
    assert gains == pytest.approx(scale.gain(rows["label"].to_numpy()), abs=1e-6)


@pytest.mark.parametrize(
    ("label", "printed"),
    [
        ("{range: [0, 4]}", True),
        ("{range: [0, 4], gain: exponential}", False),
        ("{range: [0, 4], gain: binary}", False),
        ("{range: [0, 4], positive: 1}", False),
    ],
)
def test_prepare_says_where_it_cuts_grades_unless_a_gain_is_declared(tmp_path, label, printed):
    (tmp_path / "log.csv").write_text(GRADED)
    (tmp_path / "schema.yaml").write_text(f"{SCHEMA}label: {label}\n")
    arguments = ("--schema", tmp_path / "schema.yaml", "--out", tmp_path / "shop")
    lines = prepare("impressions", "--log", tmp_path / "log.csv", *arguments)
    assert ("a label above 2 is a positive, any other a negative; declare gain" in lines) == printed


def test_prepare_is_silent_about_labels_of_two_values(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    arguments = ("--schema", tmp_path / "schema.yaml", "--out", tmp_path / "shop")
    assert "label.gain" not in prepare("impressions", "--log", tmp_path / "log.csv", *arguments)


def test_positives_in_the_summary_follow_the_declared_threshold(tmp_path):
    (tmp_path / "log.csv").write_text(GRADED)
    (tmp_path / "schema.yaml").write_text(
        f"{SCHEMA}label: {{range: [0, 4], gain: linear, positive: 2}}\n"
    )
    arguments = ("--schema", tmp_path / "schema.yaml", "--out", tmp_path / "shop")
    lines = prepare("impressions", "--log", tmp_path / "log.csv", *arguments)
    assert "test: 1 requests, 1 users, 2 rows, 1 positives" in lines
