"""Compare two bundles on a journal: `python -m model compare`."""

from __future__ import annotations

import json
from typing import Any

from model.offline.commands import Compare
from model.offline.comparison import compare
from model.offline.errors import OfflineError
from model.offline.journal import read_log
from model.offline.replay import targets
from model.offline.report import comparison_page, format_comparison, plot_comparison
from service.engine.session import Session


def compare_bundles(options: Compare) -> dict[str, Any]:
    """Print the comparison, write it to --out, and return its figures.

    Raises OfflineError for decisions that cannot be used, and BundleError for such a bundle.
    """
    for name in ("lists", "resamples"):
        if getattr(options, name) < 1:
            raise OfflineError(f"--{name}: must be at least 1, got {getattr(options, name)}")
    if not options.clip >= 1:
        raise OfflineError(f"--clip: must be at least 1, got {options.clip}")
    old, new = Session.load(options.old), Session.load(options.new)
    log = read_log(
        options.journal, old.digest, options.lists, options.types, options.attribution,
        options.window_h,
    )  # fmt: skip
    decisions, of_old, of_new, skew = targets(log, old, new, options.policy)
    comparison = compare(decisions, of_old, of_new, options.clip, options.resamples, options.seed)
    figures = {
        "policy": options.policy,
        "counts": dict(log.counts),
        "skew": skew,
        **comparison.to_json(),
    }
    print(format_comparison(figures))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(figures, indent=1) + "\n"
        (options.out / "compare.json").write_text(text, encoding="utf-8")
        plot_comparison(figures, options.out / "compare.png")
        (options.out / "compare.html").write_text(comparison_page(figures), encoding="utf-8")
    return figures
