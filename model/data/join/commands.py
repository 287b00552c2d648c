"""Options of `python -m model join`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Join:
    """Join decisions and feedback of a journal into a log for `prepare impressions`; resumes.

    Parts that are done are not read again, so run it as often as you like.
    """

    journal: Path
    """Directory of the journal, in files."""
    schema: Path
    """Feature schema, YAML, of the model to train; the one that `prepare` gets."""
    out: Path
    """Directory of the log, or one that an earlier join with the same options wrote."""
    until: str | None = None
    """Time up to which the journal is complete, such as 2026-01-05T12:00 (UTC) or ms since 1970.
    Default: now."""
    wait: str = "1d"
    """Time after a list during which events about it count, such as 6h."""
    part: str = "1d"
    """Width of the parts in which decisions are joined. Memory grows with the decisions of one."""
    model: str | None = None
    """Name of the bundles whose decisions to join. Needed if the journal has several."""
    check: Path | None = None
    """Bundle that made some of the decisions: featurise its lists as they were joined and as they
    were journalled, and stop if an array differs in a bit; decode a sample of them again, and stop
    if the log-probabilities are not those that were served. Default: no comparison."""
    forget: tuple[str, ...] = ()
    """Ids of users whose lists to remove from the parts that are done. Users whose deletion the
    journal records are removed in any case."""

    def execute(self) -> int:
        """Join what is settled, and print the counts. Raises DataError or BundleError."""
        from model.data.join.checking import ServedBundle
        from model.data.join.erasing import LATEST, forget
        from model.data.join.joining import join
        from model.data.join.options import JoinOptions, read_until

        options = JoinOptions.read(self.schema, self.wait, self.part, self.model)
        until = time.time_ns() // 1_000_000 if self.until is None else read_until(self.until)
        removed = forget(self.out, dict.fromkeys(self.forget, LATEST))
        if self.forget:
            print(f"{self.out} lists removed: {removed:,}")
        bundle = None if self.check is None else ServedBundle.load(self.check)
        counts = join(self.journal, self.out, options, until, bundle, must_have_served=True)
        for name, count in sorted(counts.items()):
            print(f"{self.out} {name}: {count:,}")
        return 0
