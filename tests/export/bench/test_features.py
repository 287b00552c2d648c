"""The benchmark of the featuriser in miniature."""

import json

import numpy as np

from export.bench.features import FeaturesOptions, cases, measure_features
from tests.support.bundles import BUNDLE
from tests.support.runs import ROOT

LOGS = "records of logarithms"
IDS, HISTORY = "list of ids", "list of ids with a history"
CACHED = "list of ids with a cached history"


def test_every_form_of_a_wide_list_gives_the_same_numbers():
    runs = cases(5, 4, BUNDLE)
    records, columns, arrays = (runs[name]()[0] for name in ("records", "columns", "arrays"))
    assert records.tobytes() == columns.tobytes()
    np.testing.assert_allclose(arrays, records, rtol=1e-5, atol=1e-6)  # float32 was sent


def test_stored_numbers_give_the_rows_of_inline_ones():
    runs = cases(5, 4, BUNDLE)
    names = ("inline numbers", "stored numbers", "stored numbers and counters")
    inline, stored, counted = (runs[f"short list of ids with {name}"]() for name in names)
    np.testing.assert_array_equal(stored, inline)
    assert not np.array_equal(counted, inline)


def test_the_report_has_the_time_of_every_case(tmp_path):
    out = tmp_path / "features.json"
    measure_features(FeaturesOptions(5, 4, BUNDLE, out, turns=1, seconds=0.01))
    report = json.loads(out.read_text())
    assert report["ms_this"].keys() == cases(5, 4, BUNDLE).keys()
    assert all(ms > 0 for ms in report["ms_this"].values())


def test_the_figures_of_the_documentation_are_those_of_the_report():
    report = json.loads((ROOT / "docs" / "reports" / "features.json").read_text())
    text = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    now, before = report["ms_this"], report["ms_baseline"]
    assert report["baseline_commit"] in text
    for line in (
        "| records | {:.1f} | {:.1f} |".format(*(each["records"] for each in (before, now))),
        "logarithms | {:.1f} | {:.1f} |".format(*(each[LOGS] for each in (before, now))),
        f"| columns | | {now['columns']:.1f} |",
        f"| arrays | | {now['arrays']:.1f} |",
        f"| {before['list-relative']:.1f} (records) | {now['list-relative']:.1f} |",
        f"A\nhistory of {report['history']} entries takes {report['history_bytes'] / 1e3:.0f} kB",
        *(
            f"| {size} ids, history of {report['history']} | {before[f'{name} {HISTORY}']:.2f} | "
            f"{now[f'{name} {HISTORY}']:.2f} | {now[f'{name} {CACHED}']:.2f} |"
            for size, name in ((50, "short"), (500, "long"))
        ),
        *(
            f"| {size} ids | {before[f'{name} {IDS}']:.2f} | {now[f'{name} {IDS}']:.2f} |"
            for size, name in ((50, "short"), (500, "long"))
        ),
    ):
        assert line in text
