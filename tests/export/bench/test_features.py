"""The benchmark of the featuriser in miniature."""

import json

import numpy as np

from export.bench.features import FeaturesOptions, cases, measure_features
from tests.support.bundles import BUNDLE


def test_every_form_of_a_wide_list_gives_the_same_numbers():
    runs = cases(5, 4, BUNDLE)
    records, columns, arrays = (runs[name]()[0] for name in ("records", "columns", "arrays"))
    assert records.tobytes() == columns.tobytes()
    np.testing.assert_allclose(arrays, records, rtol=1e-5, atol=1e-6)  # float32 was sent


def test_the_report_has_the_time_of_every_case(tmp_path):
    out = tmp_path / "features.json"
    measure_features(FeaturesOptions(5, 4, BUNDLE, out, turns=1, seconds=0.01))
    report = json.loads(out.read_text())
    assert report["ms_this"].keys() == cases(5, 4, BUNDLE).keys()
    assert all(ms > 0 for ms in report["ms_this"].values())
