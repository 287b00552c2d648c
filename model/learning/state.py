"""The progress and the results of a training run, as `checkpoint.json` holds them."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.network.config import Config

DONE = "done"
Metrics = dict[str, float]


@dataclass(kw_only=True)
class RunState:
    """Everything of a run except its tensors; the field names are the JSON keys."""

    stage: str = "evaluator"  # the stage under way: one of config.stages, or DONE
    epoch: int = 0  # finished epochs of that stage
    saves: int = 0  # checkpoints written; numbers the tensor files
    lines: int = 0  # lines of metrics.jsonl, one per finished epoch
    best: float | None = None  # validation score of the copy "best", if there is one
    threshold: float | None = None  # entropy threshold [nats], from the first calibration on
    share: float = 0.0  # part of all K x S steps that the entropy gate takes, for controls
    seconds: float = 0.0  # of training, over all processes that continued the run
    positions: int  # longest shown list: the evaluator's number of position embeddings
    data: str = ""  # directory of the data set
    data_digest: str | None = None  # of its files
    commit: str = "unknown"  # of this repository
    validation: dict[str, Metrics] = field(default_factory=dict)  # stage or "final" -> metrics
    config: Config
    shared_seconds: float | None = None  # of the evaluator's stage; absent until it is finished
    continued_from: dict[str, Any] | None = None  # run, data, data_digest and commit; else absent
    drift: dict[str, float] | None = None  # PSI of each feature since that run; else absent

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> RunState:
        """Read a checkpoint's JSON; fields added since that checkpoint get their defaults."""
        names = {item.name for item in dataclasses.fields(cls)}
        values = {name: value for name, value in payload.items() if name in names}
        return cls(**(values | {"config": Config.from_json(payload["config"])}))

    def to_json(self) -> dict[str, Any]:
        """Return the inverse of `from_json`, without the last three fields where they are None."""
        payload = dataclasses.asdict(self)
        for name in ("shared_seconds", "continued_from", "drift"):
            if payload[name] is None:
                del payload[name]
        return payload

    def begin(self, stage: str) -> None:
        """Move on to a stage, of which no epoch is finished."""
        self.stage, self.epoch, self.best = stage, 0, None


def current_commit() -> str:
    """Return the checked-out commit, with -dirty where the tree differs, or "unknown"."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"
