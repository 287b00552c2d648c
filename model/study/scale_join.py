"""Measure memory and speed of the join on generated journals of any size."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.study.commands import Scale, cache_directory, command_line, report_directory
from model.study.pages import provenance
from model.study.process_memory import watch
from service.journal.frames import FrameEncoder
from service.journal.records import Bundle, DecisionRecord, EventRecord, Policy, Record, pack
from service.journal.segments import CLOSED

DAY_MS = 86_400_000
START = 20_000 * DAY_MS
PART = 20_000  # decisions of a day, which is a part
CANDIDATES, SLATE, HISTORY = 20, 10, 30  # of a decision
EVENTS = 2  # on a decision, 20 s after it
USERS, ITEMS = 20_000, 50_000
FRAME, FRAMES = 500, 20  # decisions of a frame, and frames of a segment
SETTING = {
    "decisions_of_a_part": PART, "candidates": CANDIDATES, "slate": SLATE, "history": HISTORY,
    "events_of_a_decision": EVENTS, "wait": "1d", "part": "1d",
}  # fmt: skip
SCHEMA = """
name: scale
features:
  - {name: like_rate, of: item, kind: statistic, prior_strength: 10}
  - {name: genres, of: item, kind: categories, width: 3}
  - {name: price, of: candidate, kind: number, relative: true}
  - {name: score, of: candidate, kind: number}
  - {name: hour, of: context, kind: category}
"""


def write_journal(directory: Path, decisions: int) -> None:
    """Write a journal of so many decisions, PART of them a day."""
    draw, encoder = random.Random(decisions), FrameEncoder()
    directory.mkdir(parents=True)
    per_segment = FRAME * FRAMES
    for first in tqdm(range(0, decisions, per_segment), "journal", disable=None, leave=False):
        last = min(first + per_segment, decisions)
        moment = datetime.fromtimestamp(_time(first) / 1e3, UTC)
        path = directory / f"{moment:%Y%m%dT%H%M%S.%fZ}-{first:08x}{CLOSED}"
        with path.open("wb") as file:
            for start in range(first, last, FRAME):
                numbers = range(start, min(start + FRAME, last))
                file.write(encoder.encode([pack(r) for n in numbers for r in _records(n, draw)]))
        os.utime(path, (_time(last) / 1e3,) * 2)


def _time(number: int) -> int:
    """Return the time of a decision in ms."""
    return START + number * DAY_MS // PART


def _records(number: int, draw: random.Random) -> Iterator[Record]:
    """Yield a decision and the events on it."""
    at, user = _time(number), f"u{draw.randrange(USERS)}"
    ids = [f"i{item}" for item in draw.sample(range(ITEMS), CANDIDATES)]
    slate = draw.sample(range(CANDIDATES), SLATE)
    yield DecisionRecord(
        record=f"d{number}", at=at, request_id=f"r{number}", user=user, user_features={},
        user_is_partial=False, history=[(f"i{draw.randrange(ITEMS)}", 1.0)] * HISTORY,
        history_features=[], context={"hour": str(at // 3_600_000 % 24)}, ids=ids,
        scores=[draw.random() for _ in ids],
        features=[{"price": draw.random(), "genres": ["drink", "hot"]} for _ in ids], columns={},
        store=None, bundle=Bundle("scale", "1", "ab"), variant="active",
        policy=Policy("greedy", None, 0.0, 3, 3, 0.5, 1.0, 1.0), constraints=None, intent=None,
        slate=slate, logprob=[-0.5] * SLATE, entropy_before=[0.5] * SLATE,
        entropy_after=[0.5] * SLATE, steps=[0] * SLATE, utility=None, unknown=0, degraded=[],
        priority="interactive", total_ms=1.0, queue_ms=0.1, inference_ms=0.5,
    )  # fmt: skip
    for event in range(EVENTS):
        item = ids[slate[draw.randrange(SLATE)]]
        record = f"e{number}-{event}"
        yield EventRecord(record, at + 20_000, record, f"r{number}", user, item, "like", label=1.0)


def measure(decisions: int, scratch: Path) -> dict[str, Any]:
    """Measure the join of a journal; `scratch` is left empty."""
    directory = scratch / f"join-{decisions}"
    shutil.rmtree(directory, ignore_errors=True)
    journal, out, schema = directory / "journal", directory / "log", directory / "schema.yaml"
    try:
        write_journal(journal, decisions)
        schema.write_text(SCHEMA, encoding="utf-8")
        command = [sys.executable, "-m", "model", "join", "--journal", journal, "--schema", schema]
        command += ["--out", out, "--until", _time(decisions) + 2 * DAY_MS]
        (stage,) = watch([*map(str, command)], lambda: "join")
        parts = json.loads((out / "join.json").read_text(encoding="utf-8"))["parts"]
        return {
            "decisions": decisions,
            "parts": len(parts),
            "counts": dict(sum((Counter(part["counts"]) for part in parts), Counter())),
            "journal_bytes": _size(journal),
            "log_bytes": _size(out),
            "seconds": stage.seconds,
            "peak_mb": stage.peak_mb,
        }
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def report(command: Scale) -> None:
    """Measure each size, print it, and write join.json after each."""
    out = report_directory(command.out, command.smoke)
    cache = cache_directory(command.cache, command.smoke, "scale")
    out.mkdir(parents=True, exist_ok=True)
    made, path = provenance(command_line("scale", command)), out / "join.json"
    # Sizes that this run does not measure stay as they are, with the commit that made them.
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    sizes = {entry["decisions"]: entry for entry in earlier}
    for decisions in command.join:
        size = {**measure(decisions, cache), "made": made, "setting": SETTING}
        sizes[decisions] = size
        text = json.dumps([sizes[each] for each in sorted(sizes)], indent=1) + "\n"
        path.write_text(text, encoding="utf-8")
        rows = decisions * CANDIDATES
        print(
            f"join of {decisions:,} decisions, {rows:,} rows: {size['seconds']:,.0f} s, "
            f"{size['peak_mb']:,.0f} MB at most"
        )
