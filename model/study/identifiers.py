"""Measure training with many identifiers and write docs/reports/catalogue_training.json.

speed   lists per second of CPU time of each stage, by the number of items and the update of the
        token table
laws    loss of the evaluator on held-out lists, by the law of that update
starts  the same before and after one epoch on a log half of whose items are new, by the embedding
        that new items begin with

Each measurement runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SparseAdam

from model.data.growth import ABSENT, earlier_tokens, read_schema
from model.learning.continuation import NOISE
from model.learning.optimizer import RowAdamW
from model.learning.policy import Batch
from model.learning.train import Run, train
from model.network.config import Config
from model.study.commands import Throughput, cache_directory, command_line, report_directory
from model.study.identifier_log import CANDIDATES, VALID, write_identifier_log
from model.study.pages import provenance
from model.study.scale import in_process
from service.engine.features.layout import Layout

REPORT = "catalogue_training.json"
DENSE = 1 << 62  # a vocabulary that no log reaches
UPDATES = {"dense": DENSE, "rows": 1}  # least vocabulary with sparse gradients
WARM_UP = 3  # updates before the timed ones
SPEED_LISTS = 4096  # that are featurised to be timed
LAW_ITEMS, START_ITEMS, SMOKE_ITEMS = 50_000, 20_000, 100
EPOCHS = 4
STARTS = ("mean of the feature", "unknown value", "zero")
Row = dict[str, Any]


class WithoutDecay(RowAdamW):
    """RowAdamW without weight decay of tables."""

    def decay_rows(self) -> None:
        self._kept.clear()


class WithSparseAdam(RowAdamW):
    """AdamW, with torch's SparseAdam for tables: momentum, and no weight decay."""

    def _update_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        table = self.state[parameter]
        if "adam" not in table:
            table["adam"] = SparseAdam([parameter])
        table["adam"].param_groups[0]["lr"] = group["lr"]
        table["adam"].step()

    def state_dict(self) -> dict[str, Any]:
        """Return no state: a measurement is not resumed."""
        return {"state": {}, "param_groups": []}


LAWS: dict[str, tuple[int, type[RowAdamW]]] = {
    "AdamW over the whole table": (DENSE, RowAdamW),
    "SparseAdam": (1, WithSparseAdam),
    "rows without momentum or decay": (1, WithoutDecay),
    "rows without momentum": (1, RowAdamW),
}


def time_stages(config: Config, data: Path, directory: Path, updates: int) -> list[Row]:
    """Return lists, CPU seconds and lists per second of each stage."""
    run = Run(config, data, directory, None)
    run.calibrate()
    rows = []
    for describe in (run.evaluator_stage, run.warm_start_stage, run.grpo_stage):
        stage = describe()
        optimizer, size = stage.optimizer(), stage.settings.batch
        order = np.random.default_rng(0).permutation(len(stage.lists))
        for step in range(WARM_UP + updates):
            if step == WARM_UP:
                began = time.process_time()
            index = np.take(order, range(step * size, (step + 1) * size), mode="wrap")
            stage.update(optimizer, Batch(stage.lists, index, run.device))
        seconds = time.process_time() - began
        lists = updates * size
        rows.append(
            {
                "stage": stage.name,
                "tokens": run.featuriser.vocabulary_size,
                "lists": lists,
                "seconds": seconds,
                "lists_per_second": lists / seconds,
            }
        )
    return rows


def train_by_law(config: Config, data: Path, directory: Path, law: str) -> float:
    """Train the evaluator and return its loss on valid lists in its best epoch."""
    tokens, optimizer = LAWS[law]
    config = dataclasses.replace(config, sparse_vocabulary=tokens)
    run = Run(config, data, directory, None)
    run.train_stage(dataclasses.replace(run.evaluator_stage(), optimizer_type=optimizer))
    return run.state.validation["evaluator"]["loss"]


def train_by_start(
    config: Config, data: Path, directory: Path, base: Path, start: str
) -> tuple[float, float]:
    """Return the loss on valid lists before and after an epoch from a start of new rows."""
    run = Run(config, data, directory, base, continued=True)
    schema = run.featuriser.schema
    table = run.evaluator.embed.table.weight.data
    new = torch.from_numpy(earlier_tokens(schema, read_schema(base)) == ABSENT)
    layout = Layout(schema)
    first = layout.first_token["item_id"] + 1
    of_items = slice(first, first + layout.features["item_id"].values)
    held = table[of_items][~new[of_items]]
    centres = {"mean of the feature": held.mean(dim=0), "zero": torch.zeros(table.shape[1])}
    if start in centres:  # else that of a continued run
        table[new] = centres[start] + NOISE * torch.randn(int(new.sum()), table.shape[1])
    stage = run.evaluator_stage()
    before, _ = stage.validate()
    run.train_stage(stage)
    return -before, -stage.validate()[0]


def measure_speed(items: int, config: Config, updates: int, scratch: Path) -> Iterator[Row]:
    """Yield a row for each update of the token table and each stage."""
    data, rows = write_log(scratch, items, 4)
    for case, tokens in UPDATES.items():
        timed_config = dataclasses.replace(
            config, train_lists=SPEED_LISTS, sparse_vocabulary=tokens
        )
        timed = in_process(time_stages, timed_config, data, scratch / case, updates)
        common = {"case": f"speed, {case}", "items": items, "rows": rows}
        yield from (common | row | {"peak_mb": timed["peak"]} for row in timed["result"])


def measure_laws(items: int, config: Config, scratch: Path) -> Iterator[Row]:
    """Yield a row for each law of the update of the token table."""
    data, rows = write_log(scratch, items, 12)
    for law in LAWS:
        trained = in_process(train_by_law, config, data, scratch / law, law)
        yield {
            "case": f"law, {law}", "items": items, "rows": rows, "stage": "evaluator",
            "seconds": trained["seconds"], "peak_mb": trained["peak"], "loss": trained["result"],
        }  # fmt: skip


def measure_starts(items: int, config: Config, scratch: Path) -> Iterator[Row]:
    """Yield a row for each start of the embeddings of new items."""
    config = dataclasses.replace(config, sparse_vocabulary=1)
    for stage in ("warm_start", "grpo"):  # not measured
        settings = dataclasses.replace(getattr(config, stage), epochs=1)
        config = dataclasses.replace(config, **{stage: settings})
    base, first = scratch / "base", write_log(scratch, items, 12)[0]
    in_process(train, config, first, base)
    data, rows = write_log(scratch, items, 12, items // 2)
    for start in STARTS:
        continued = in_process(
            train_by_start, config.override(epochs=1), data, scratch / start, base, start
        )
        before, after = continued["result"]
        yield {
            "case": f"start, {start}", "items": items, "rows": rows, "stage": "evaluator",
            "seconds": continued["seconds"], "peak_mb": continued["peak"], "loss_before": before,
            "loss": after,
        }  # fmt: skip


def write_log(scratch: Path, items: int, rows_per_item: int, first: int = 0) -> tuple[Path, int]:
    """Write a log below `scratch`; returns its directory and its number of rows."""
    directory, rows = scratch / f"log-{first}", items * rows_per_item + VALID * CANDIDATES
    write_identifier_log(directory, items, rows, first, VALID)
    return directory, rows


def report(command: Throughput) -> None:
    """Measure, and write the report after each row."""
    out = report_directory(command.out, command.smoke)
    scratch = cache_directory(command.cache, command.smoke, "identifiers")
    config = Config.load(command.config)
    config = config.smoke() if command.smoke else config
    config = dataclasses.replace(
        config, evaluator=dataclasses.replace(config.evaluator, epochs=EPOCHS)
    )
    laws, starts = (SMOKE_ITEMS,) * 2 if command.smoke else (LAW_ITEMS, START_ITEMS)
    plans: list[Callable[[Path], Iterator[Row]]] = [
        *(partial(measure_speed, items, config, command.rounds) for items in command.items),
        partial(measure_laws, laws, config),
        partial(measure_starts, starts, config),
    ]
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for plan in plans:
        shutil.rmtree(scratch, ignore_errors=True)
        for row in plan(scratch):
            rows.append(row)
            payload = {"rows": rows, "made": provenance(command_line("throughput", command))}
            (out / REPORT).write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(row))
    shutil.rmtree(scratch, ignore_errors=True)
