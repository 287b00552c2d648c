"""Measure memory and speed of evaluation on test splits of any size.

A miniature is trained on a small random log and exported. It ranks the test lists of larger logs
over the same items, once with ids only and once with fresh item features.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from model.data.chunks import ROWS_PER_CHUNK
from model.learning.evaluate import LISTS_AT_ONCE, evaluate
from model.learning.train import train
from model.network.config import Config
from model.study.commands import Scale, cache_directory, command_line, report_directory
from model.study.pages import provenance, render
from model.study.random_log import CANDIDATES, VALID, write_log
from model.study.scale import in_process
from model.study.worth import run
from service.engine.session import Session

TRAIN_LISTS = 2_000  # train and valid lists before the test lists
SMALL_TESTS = 100  # test lists of the log that the miniature is trained on


def make_bundle(config: Config, directory: Path) -> Path:
    """Train a miniature on a small log, and return its bundle."""
    write_tests(directory / "log", SMALL_TESTS)
    train(config.smoke(), directory / "log", directory / "run")
    bundle = directory / "bundles" / "scale" / "1"
    run("export", "--checkpoint", directory / "run", "--out", bundle, "--data", directory / "log")
    return bundle


def write_tests(data: Path, tests: int) -> None:
    """Write a log that ends with so many test lists."""
    write_log(data, (VALID + TRAIN_LISTS + tests) * CANDIDATES, tests=tests)


def rank_all(bundle: Path, data: Path) -> dict[str, Any]:
    """Evaluate a bundle on all test lists."""
    return evaluate(Session.load(bundle), data)


def report(command: Scale) -> None:
    """Measure each size, and write JSON and page after each."""
    out = report_directory(command.out, command.smoke)
    if command.page_only:
        write_page(out)
        return
    scratch = cache_directory(command.cache, command.smoke, "scale") / "evaluate"
    shutil.rmtree(scratch, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    made = provenance(command_line("scale", command))
    setting = {"candidates": CANDIDATES, "rows_at_once": ROWS_PER_CHUNK, "block": LISTS_AT_ONCE}
    path = out / "scale_evaluate.json"
    # Sizes that this run does not measure stay as they are, with the commit that made them.
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    sizes = {entry["test_lists"]: entry for entry in earlier}
    try:
        bundle = make_bundle(Config.load(command.config), scratch)
        for tests in command.test_lists:
            data = scratch / f"tests-{tests}"
            write_tests(data, tests)
            figures = in_process(rank_all, bundle, data)
            measured = figures.pop("result")
            entry = {"test_lists": tests, "rankable": measured["lists"], **figures}
            sizes[tests] = {**entry, "made": made, "setting": setting}
            text = json.dumps([sizes[size] for size in sorted(sizes)], indent=1) + "\n"
            path.write_text(text, encoding="utf-8")
            write_page(out)
            shutil.rmtree(data)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_page(out: Path) -> None:
    """Write scale_evaluate.md from the scale_evaluate.json below `out`."""
    sizes = json.loads((out / "scale_evaluate.json").read_text(encoding="utf-8"))
    text = render("scale_evaluate.md.jinja", sizes=sizes)
    (out / "scale_evaluate.md").write_text(text, encoding="utf-8")
