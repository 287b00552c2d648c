"""Measure preparation in shards on long logs and write docs/reports/catalogue_shards.json.

The commands of the project run as processes of their own. Stages are told by the files that they
write, and memory is that of all processes together.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from model.data.shards.options import ROWS_PER_SHARD, ShardOptions
from model.study import dealing
from model.study.catalogue import write_page
from model.study.commands import Scale, cache_directory, command_line, report_directory
from model.study.long_log import write_long_log
from model.study.pages import provenance
from model.study.process_memory import StageMemory, watch

USERS, ITEMS = 1_000_000, 1_000_000
DEALT = 10_000_000  # rows of the largest log that is dealt by every way
FILE, BOTH_FILE = "catalogue_shards.json", "catalogue_engines.json"
THEN = " && "  # between the commands of a report
TASKS = ("deal", "collect", "divide", "folds", "count", "merge", "write")
Row = dict[str, Any]


def stage_of_prepare(out: Path) -> Callable[[], str]:
    """Return a function that tells the stage of `prepare --out OUT` by the files that exist.

    A stage that has begun is not left for an earlier one, when files are removed at the end.
    """
    unfinished, temporary = (out.with_name(f"{out.name}.{end}") for end in ("unfinished", "tmp"))
    files = {
        **{stage: unfinished / stage for stage in TASKS},
        "tables": temporary / "shards.json",
        "fit": temporary / "summary.json",
    }
    reached = [0]

    def stage() -> str:
        present = [place for place, path in enumerate(files.values(), 1) if path.exists()]
        reached[0] = max(reached[0], *present, 0)
        return ("check rows", *files)[reached[0]]

    return stage


def measure_prepare(directory: Path, out: Path, command: Scale, shards: int) -> list[Row]:
    """Prepare a long log, and return a row for each stage."""
    unfinished = out.with_name(f"{out.name}.unfinished")
    stage_of, disk = stage_of_prepare(out), [0]

    def stage() -> str:
        name = stage_of()
        if name in ("tables", "fit") and not disk[0]:  # all tasks have ended
            disk[0] = _megabytes(unfinished)
        return name

    arguments = [
        "--log", directory / "log", "--items", directory / "items.parquet",
        "--schema", directory / "schema.yaml", "--out", out, "--engine", command.engine,
        "--shards", shards,
        *([] if command.workers is None else ["--workers", command.workers]),
    ]  # fmt: skip
    run = [sys.executable, "-m", "model", "prepare", "impressions", *map(str, arguments)]
    rows = _rows(f"prepare, {command.engine}", watch(run, stage))
    return [{**row, "unfinished_mb": disk[0]} for row in rows]


def measure_featurise(data: Path, command: Scale) -> list[Row]:
    """Featurise a data set in shards, and return a row for each stage."""
    arrays = data.with_name(f"{data.name}.arrays")

    def stage() -> str:
        return "featurise" if any(arrays.glob("train-*")) else "fit"

    workers = [] if command.workers is None else ["--workers", str(command.workers)]
    run = [sys.executable, "-m", "model", "featurise", "--data", str(data), *workers]
    return _rows("featurise", watch([*run, "--engine", command.engine], stage))


def _rows(case: str, stages: Sequence[StageMemory]) -> list[Row]:
    return [
        {
            "case": case,
            "stage": stage.stage,
            "seconds": round(stage.seconds, 1),
            "peak_mb": round(stage.peak_mb),
            "main_mb": round(stage.main_mb),
        }
        for stage in stages
    ]


def measure_dealing(directory: Path) -> list[Row]:
    """Deal a log by every way, each in a process of its own, and return a row for each."""
    rows = []
    for name in dealing.WAYS:
        if name == "duckdb" and importlib.util.find_spec("duckdb") is None:
            continue
        out = directory / "dealt"
        run = [sys.executable, "-m", "model.study.dealing", name]
        watched = watch([*run, str(directory / "log"), str(out)], partial(str, name))
        rows += [{**row, "disk_mb": _megabytes(out)} for row in _rows("deal only", watched)]
        shutil.rmtree(out)
    return rows


def _megabytes(path: Path) -> int:
    """Return the size of all files below a directory, which may be removed meanwhile."""
    total = 0
    for place, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return round(total / 1e6)


def digest(directory: Path) -> str:
    """Return the first 16 digits of a SHA-256 of the names and bytes of all files."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            of_file = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(directory).as_posix()} {of_file}\n".encode())
    return total.hexdigest()[:16]


def measure(command: Scale, rows: int, scratch: Path) -> list[Row]:
    """Measure one log; `scratch` is left empty."""
    directory = scratch / f"long-{rows}"
    shutil.rmtree(directory, ignore_errors=True)
    users, items = (max(100, min(count, rows)) for count in (USERS, ITEMS))
    try:
        write_long_log(directory, rows, users, items)
        data = directory / "data"
        measured = measure_prepare(directory, data, command, max(2, -(-rows // ROWS_PER_SHARD)))
        measured[-1]["digest"] = digest(data)
        if rows not in command.rows:
            measured = []
        dealt = max((size for size in command.rows if size <= DEALT), default=0)
        if rows == dealt and command.engine == "local":
            measured += measure_dealing(directory)
        if rows in command.featurised:
            measured += measure_featurise(data, command)
        sizes = {"log_mb": _megabytes(directory / "log"), "data_mb": _megabytes(data)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    workers = ShardOptions(workers=command.workers).count_workers()
    common = {"rows": rows, "items": items, "users": users, "workers": workers, **sizes}
    return [{**row, **common} for row in measured]


def report(command: Scale) -> None:
    """Measure each size, and write JSON and page after each; rows of other sizes are kept.

    The command of the report is a line that makes all of its rows.
    """
    out = report_directory(command.out, command.smoke)
    if command.page_only:
        write_page(out)
        return
    cache = cache_directory(command.cache, command.smoke, "scale")
    out.mkdir(parents=True, exist_ok=True)
    both = command.engine == "both"
    path = out / (BOTH_FILE if both else FILE)
    commands_of_engines = [replace(command, engine="local"), replace(command, engine="ray")]
    rows: list[Row] = []
    made, commands = provenance(command_line("scale", command)), []
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        rows, commands = before["rows"], before["made"]["command"].split(THEN)
    line = THEN.join(dict.fromkeys([*commands, made["command"]]))
    for size in sorted({*command.rows, *command.featurised}):
        load = round(os.getloadavg()[0], 1)
        measured = [
            {**row, "load": load, "commit": made["commit"]}
            for each in (commands_of_engines if both else [command])
            for row in measure(each, size, cache)
        ]
        cases = {(row["case"], row["rows"]) for row in measured}
        rows = [row for row in rows if (row["case"], row["rows"]) not in cases] + measured
        text = json.dumps({"made": made | {"command": line}, "rows": rows}, indent=1) + "\n"
        path.write_text(text, encoding="utf-8")
        write_page(out)
