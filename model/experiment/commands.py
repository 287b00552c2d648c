"""Options of `python -m model experiment`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Experiment:
    """Compare the canary with the active version at any time, and promote it or roll it back."""

    journal: Path
    """Directory of the journal, in files."""
    models: Path
    """Store of bundles, RERANK_MODELS of the service."""
    rules: Path
    """Rules of the decision, YAML (docs/retrain.md)."""
    name: str | None = None
    """Model of the store. Required if it has several."""
    since: str | None = None
    """Beginning of the experiment, ISO 8601 in UTC. Default: the canary's first list. State the
    last change of the canary's share, if there was one."""
    until: str | None = None
    """Moment up to which lists and events are read, ISO 8601 in UTC. Default: now."""
    apply: bool = False
    """Carry the decision out: write serving.json in the store. By default it is only printed."""
    out: Path | None = None
    """Directory of experiment.json and experiment.png. Default: only print."""

    def execute(self) -> int:
        """Print the figures and the decision. Raises ExperimentError."""
        from model.experiment.run import run_experiment

        run_experiment(self)
        return 0
