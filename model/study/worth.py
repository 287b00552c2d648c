"""Compare the worth that `export` prints with what a caller measures over HTTP.

For each generated log and seed the commands prepare, train, export and serve run as a user runs
them, and write docs/reports/worth.md. The caller (model.study.caller) shares no code with
`evaluate`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model.study.caller import Log, measure
from model.study.commands import Worth, cache_directory, command_line, report_directory
from model.study.moving_items import write_changing_items, write_fading_items
from model.study.pages import provenance, render

HALF_LIFE = "3d"  # of the like rate, half as long as an item is liked
CASES: dict[str, Callable[[Path, int], None]] = {
    "changing items": write_changing_items,
    "fading items": write_fading_items,
    "fading items, half-life": functools.partial(write_fading_items, half_life=HALF_LIFE),
}
READY_S = 60.0  # limit for a service to get ready, and to stop


class CommandError(OSError):
    """A command of the project failed. The message holds the command and its last line."""


def run(*arguments: object) -> str:
    """Run `python -m ...` and return its standard output. Raises CommandError."""
    words = [str(argument) for argument in arguments]
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise CommandError(f"python -m {' '.join(words)}: status {done.returncode}, {last[0]}")
    return done.stdout


class Service(NamedTuple):
    """A running service."""

    url: str
    pid: int


@contextlib.contextmanager
def serving(
    bundle: Path, log: Path, settings: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Serve a bundle on a free port of 127.0.0.1 until the block ends. Raises CommandError.

    Args:
        bundle: directory of the bundle.
        log: file for the output of the service, written anew.
        settings: variables of the environment to add.
    """
    command = [sys.executable, "-m", "service", "--bundle", str(bundle), "--port", "0"]
    with log.open("wb") as file:
        environment = {**os.environ, **(settings or {})}
        process = subprocess.Popen(command, stderr=file, stdout=file, env=environment)
    try:
        yield Service(_wait_until_ready(process, log), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(READY_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        match = re.search(r"http://[\d.]+:\d+", log.read_text("utf-8", "replace"))
        if match is not None:
            with (
                contextlib.suppress(urllib.error.URLError, OSError),
                urllib.request.urlopen(f"{match[0]}/readyz", timeout=1),
            ):
                return match[0]
        time.sleep(0.1)
    raise CommandError(f"python -m service: did not get ready: {log.read_text('utf-8')[-500:]}")


def measure_case(case: str, seed: int, config: Path, scratch: Path, smoke: bool) -> dict[str, Any]:
    """Train on a generated log, and return its rows of the report and its counts.

    Args:
        scratch: directory for the log, the data set, the run and the bundle, written anew.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    CASES[case](scratch, seed)
    data, bundle = scratch / "data", scratch / "bundles" / case.split()[0] / str(seed + 1)
    log, schema = scratch / "log.parquet", scratch / "schema.yaml"
    run("model", "prepare", "impressions", "--log", log, "--schema", schema, "--out", data)
    shape = ["--smoke"] if smoke else []
    training = ["--config", config, "--data", data, "--out", scratch / "run", "--seed", seed]
    run("model", "train", *training, *shape)
    printed = run("export", "--checkpoint", scratch / "run", "--out", bundle, "--data", data)
    metrics = json.loads(printed)["offline_metrics"]
    callers: dict[str, tuple[Mapping[str, Any], Sequence[str]]] = {"ids only": (metrics, ())}
    if "fresh" in metrics:
        callers["fresh"] = metrics["fresh"], metrics["fresh"]["features"]
    rows = []
    with serving(bundle, bundle.parent / "service.log") as service:
        for caller, (figures, features) in callers.items():
            measured = measure(Log(log, data), service.url, features)
            assert measured["lists"] == metrics["lists"]
            mean, low, high = figures["ndcg@10"]
            inside = None if low is None else low <= measured["ndcg@10"] <= high
            rows.append(
                {"case": case, "seed": seed, "caller": caller, "printed": mean, "low": low,
                 "high": high, "measured": round(measured["ndcg@10"], 4), "inside": inside,
                 "over shown order": figures["ndcg@10 gain over"]["shown order"]}
            )  # fmt: skip
    return {
        "rows": rows,
        "lists": metrics["lists"],
        "keep_fresh": metrics.get("keep_fresh", []),
    }


def report(command: Worth) -> bool:
    """Measure what is not cached, write JSON and page, and return true if all rows are inside."""
    out = report_directory(command.out, command.smoke)
    if not command.page_only:
        cache = cache_directory(command.cache, command.smoke, "worth")
        cells = []
        for case in command.cases or CASES:
            for seed in range(command.seeds):
                directory = cache / case.replace(",", "").replace(" ", "-") / str(seed)
                cells.append(_cell(command, case, seed, directory))
        payload = {
            "made": provenance(command_line("worth", command)),
            "rows": [row for cell in cells for row in cell["rows"]],
            "keep_fresh": [
                {"case": cell["rows"][0]["case"], "seed": cell["rows"][0]["seed"], **entry}
                for cell in cells
                for entry in cell["keep_fresh"]
            ],
            "lists": {cell["rows"][0]["case"]: cell["lists"] for cell in cells},
            "half_life": HALF_LIFE,
        }
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(payload, indent=1) + "\n"
        (out / "worth.json").write_text(text, encoding="utf-8")
    write_page(out)
    payload = json.loads((out / "worth.json").read_text(encoding="utf-8"))
    return all(row["inside"] is not False for row in payload["rows"])


def _cell(command: Worth, case: str, seed: int, directory: Path) -> dict[str, Any]:
    """Read the figures of a case and seed from the cache, or measure them."""
    cached = directory.with_suffix(".json")
    if not cached.exists():
        figures = measure_case(case, seed, command.config, directory, command.smoke)
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    cell: dict[str, Any] = json.loads(cached.read_text(encoding="utf-8"))
    return cell


def write_page(out: Path) -> None:
    """Write worth.md from the worth.json below `out`."""
    payload = json.loads((out / "worth.json").read_text(encoding="utf-8"))
    (out / "worth.md").write_text(page(payload), encoding="utf-8")


def page(payload: Mapping[str, Any]) -> str:
    """Render the report as Markdown; every figure comes from `payload`, the JSON."""
    return render("worth.md.jinja", **payload)
