"""Options of `python -m model retrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from model.data.options import Paths

SOURCE = tyro.conf.create_mutex_group(required=True)


@dataclass(frozen=True)
class Retrain:
    """Train the active model on newer decisions, and publish it as shadow if it passes the gates.

    An interrupted run goes on by the same command.
    """

    models: Path
    """Store of bundles, RERANK_MODELS of the service."""
    schema: Path
    """Feature schema, YAML, as the active model was prepared with."""
    journal: Annotated[Path | None, SOURCE] = None
    """Directory of the journal, in files, which is joined with its feedback."""
    log: Annotated[Paths, SOURCE] = ()
    """Files of an impression log (docs/data.md) in place of a journal."""
    work: Path = Path("build/retrain")
    """Directory of runs, one for each candidate. Keep it: later runs continue the training of
    earlier ones, and the joined log grows there."""
    name: str | None = None
    """Model of the store. Required if it has several."""
    checkpoint: Path | None = None
    """Training run of the first bundle, of which --work has no run. Pass it every night: it is
    passed over while a bundle of another run is active. By default runs below --work alone, and
    those that they continued."""
    items: Paths = ()
    """Files of item features, as for `prepare impressions`."""
    users: Paths = ()
    """Files of user features, likewise."""
    wait: str = "1d"
    """Time after a list during which events about it count, as for `join`."""
    part: str = "1d"
    """Width of the parts in which a journal is joined, as for `join`."""
    until: str | None = None
    """Last moment of decisions to learn from, ISO 8601 in UTC. Default: now."""
    last: str | None = None
    """Learn from the lists of this time alone, such as 30d, up to --until. Needs --journal.
    Default: all joined lists."""
    config: Path | None = None
    """Training configuration, YAML. Default: the checkpoint's, with a quarter of the epochs of the
    first training."""
    epochs: int | None = None
    """Replaces the epochs of every stage."""
    seed: int | None = None
    """Replaces the seed of the configuration."""
    entropy_quantile: float | None = None
    """Passed on to `python -m export`. By default validation chooses the gate of reasoning."""
    margin: float = 0.01
    """Loss of NDCG@10 on the latest lists that noise may hide: the interval of the difference to
    the active bundle must hold 0 or lie above it, and end above minus this."""
    slowdown: float = 1.25
    """Largest ratio of the times of one list, candidate to active bundle."""
    promote: str = "shadow"
    """Role of a candidate that passes: shadow, or canary:SHARE, such as canary:0.1."""
    keep_data: bool = False
    """Keep the prepared lists, and the run's copy of a published bundle, when the run is over."""
    dry_run: bool = False
    """Print the plan and change nothing."""
    abandon: bool = False
    """Give up the unfinished run, and begin another one."""

    def execute(self) -> int:
        """Run the stages that are left; status 1 if the candidate is rejected or superseded."""
        from model.retraining.run import retrain

        return retrain(self)
