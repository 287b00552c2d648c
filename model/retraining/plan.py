"""The plan of a run: all that is decided when it begins, so that a resumed run ends in the same."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data.join.options import read_until
from model.data.log_splits import to_iso
from model.data.schemas import load_schema
from model.learning.checkpoint import CHECKPOINT, CheckpointError, read_state
from model.retraining.commands import Retrain
from model.retraining.errors import RetrainError
from model.served import choose_model, manifest_digest
from service.engine.contract import Manifest
from service.engine.features.durations import to_ms
from service.models.store import ServingConfig
from service.models.versions import subdirectories

TRAINING = "training"  # directory of the training below that of a run
# Options that a command may change between the attempts of one run.
FREE = {"dry_run", "abandon", "until"}


@dataclass(frozen=True)
class Plan:
    """Decisions at the beginning of a run; the field names are the JSON keys.

    Args:
        name: of the model in the store.
        champion: active version; digest: SHA-256 of its manifest.
        checkpoint: training run of the champion, which is continued; absolute, so that a run that
            begins in another working directory finds it.
        version: of the candidate.
        until: ISO 8601, the last moment of decisions.
        options: of the command, as text; a resumed run must have the same.
    """

    name: str
    champion: str
    digest: str
    checkpoint: str
    version: str
    until: str
    options: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return dataclasses.asdict(self)


def make_plan(options: Retrain, now_ms: int, earlier: Sequence[Plan] = ()) -> Plan:
    """Return the plan of a new run. Raises RetrainError, BundleError or DataError.

    earlier: plans of the runs below --work.
    """
    check_options(options)
    refuse_cut_lists(options)
    name = choose_model(options.models, options.name)
    directory = options.models / name
    champion = ServingConfig.read(directory).active
    manifest = Manifest.read(directory / champion)
    checkpoint = checkpoint_of(manifest, options, earlier)
    return Plan(
        name=name,
        champion=champion,
        digest=manifest_digest(directory / champion),
        checkpoint=checkpoint.absolute().as_posix(),
        version=next_version(directory, options.work),
        until=to_iso(now_ms if options.until is None else read_until(options.until)),
        options=texts_of(options),
    )


def check_options(options: Retrain) -> None:
    """Raise RetrainError for an option that is out of its range."""
    if not 0.0 <= options.margin < 1.0:
        raise RetrainError(f"--margin: must be from 0 to below 1, got {options.margin}")
    if not (options.slowdown >= 1.0 and math.isfinite(options.slowdown)):
        raise RetrainError(f"--slowdown: must be at least 1, got {options.slowdown}")
    quantile = options.entropy_quantile
    if quantile is not None and not 0.0 <= quantile <= 1.0:
        raise RetrainError(f"--entropy-quantile: must be from 0 to 1, got {quantile}")
    if options.last is not None:
        try:
            to_ms(options.last)
        except ValueError as error:
            raise RetrainError(f"--last: {error}") from None
        if options.journal is None:
            raise RetrainError("--last: needs --journal; cut the files of --log yourself")
    share_of(options.promote)


def refuse_cut_lists(options: Retrain) -> None:
    """Raise RetrainError for a rule by which lists of a journal end in the last click.

    The last item of such a list is always liked, so the order of the bundle that made it is among
    the worst, and any other bundle would pass the gates.
    """
    if options.journal is not None and load_schema(options.schema).passed_over.rule == "above":
        raise RetrainError(
            f"{options.schema}: passed_over.rule: must be all or stated, got above; lists that are "
            "cut at the last click cannot judge the bundle that made them"
        )


def share_of(promote: str) -> float | None:
    """Return the share of the canary, None for a shadow. Raises RetrainError."""
    if promote == "shadow":
        return None
    match = re.fullmatch(r"canary:(\d*\.?\d+)", promote)
    share = float(match[1]) if match else 0.0
    if not 0.0 < share <= 1.0:
        raise RetrainError(
            f"--promote: must be shadow, or canary:SHARE with a share above 0 and at most 1, "
            f"got {promote!r}"
        )
    return share


def texts_of(options: Retrain) -> dict[str, str]:
    """Return the options that decide the candidate, as text, without those that are unset."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {
        name: " ".join(str(path) for paths in value for path in paths)
        if isinstance(value, tuple)
        else str(value)
        for name, value in values.items()
        if name not in FREE and value not in (None, ())
    }


def checkpoint_of(manifest: Manifest, options: Retrain, earlier: Sequence[Plan]) -> Path:
    """Return the finished run that a bundle was exported from. Raises RetrainError.

    One command serves every night: --checkpoint counts while the bundle that it names is active,
    and is passed over once another run is that of the active bundle.
    """
    for run in checkpoints(options, earlier):
        if difference_to(manifest, run) is None:
            return run
    bundle = f"{manifest.name}/{manifest.version}"
    if options.checkpoint is None:
        raise RetrainError(
            f"--checkpoint: {options.work} has no run of the active bundle {bundle}; name the "
            "directory that `python -m model train` wrote"
        )
    raise RetrainError(
        f"--checkpoint: must be the run of the active bundle {bundle}, which {options.work} has "
        f"not; {options.checkpoint} has {difference_to(manifest, options.checkpoint)}"
    )


def checkpoints(options: Retrain, earlier: Sequence[Plan]) -> Iterator[Path]:
    """Yield the directories that may hold the run of the active bundle.

    After a rejection or a roll-back, the active version is still one that an earlier run continued.
    """
    if options.checkpoint is not None:
        yield options.checkpoint
    yield from (path.parent for path in sorted(options.work.glob(f"*/{TRAINING}/{CHECKPOINT}")))
    yield from sorted({Path(plan.checkpoint) for plan in earlier})


def difference_to(manifest: Manifest, run: Path) -> str | None:
    """Return the reason for which a bundle is not from a run, None if it is."""
    try:
        state = read_state(run)
    except CheckpointError as error:
        return f"no checkpoint ({error})"
    of_run = {
        "config": state.config.to_json(),
        "validation": state.validation,
        "commit": state.commit,
        "seconds": round(state.seconds),
    }
    for name, value in of_run.items():
        if manifest.training.get(name) != value:
            return f"another {name}"
    return None


def next_version(directory: Path, work: Path) -> str:
    """Return the whole number above the first number of each version and each run."""
    names = [path.name for place in (directory, work) for path in subdirectories(place)]
    numbers = [int(match[0]) for name in names if (match := re.match(r"\d+", name))]
    return str(max(numbers, default=0) + 1)
