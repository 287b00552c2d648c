"""Shadow versions: rank the same lists at the lowest priority and only compare the slates."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from service.batching.batcher import RowResult
from service.batching.queue import SHADOW_PRIORITY
from service.engine.contract import Manifest
from service.engine.features.candidates import CandidateList
from service.engine.rows import Row, Slate
from service.errors import DeadlineExceeded, Overloaded
from service.models.deployment import Deployment
from service.models.fleet import Fleet

logger = logging.getLogger("service")

# Options of a row that a shadow takes over where they differ from the active bundle's defaults.
OPTIONS = ("entropy_threshold", "reason_temperature", "recommend_temperature")


class ShadowRanker:
    """Ranks answered lists again with the shadow of their model, where it has one."""

    def __init__(
        self, fleet: Fleet, timeout_s: float, report: Callable[[Manifest, str], None]
    ) -> None:
        """report is called with the shadow's manifest and same_slate, same_items, different,
        skipped or failed.
        """
        self._fleet, self._timeout_s, self._report = fleet, timeout_s, report
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(
        self, inputs: CandidateList, row: Row, deployment: Deployment, outcome: RowResult
    ) -> None:
        """Start a comparison; skip it if the deployment is under load. Sampled lists have none."""
        shadow = self._fleet.shadow_of(deployment)
        if shadow is None or row.sampling is not None:
            return
        at_rest = deployment.batcher.level >= deployment.manifest.budget
        if not at_rest or outcome.budget < row.budget:
            self._report(shadow.manifest, "skipped")
            return
        comparison = self._compare(inputs, row, deployment, outcome.slate, shadow)
        task = asyncio.get_running_loop().create_task(comparison)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(
        self,
        inputs: CandidateList,
        row: Row,
        deployment: Deployment,
        slate: Slate,
        shadow: Deployment,
    ) -> None:
        try:
            outcome = await self._outcome(inputs, row, deployment, slate, shadow)
        except (Overloaded, DeadlineExceeded):
            outcome = "skipped"
        except Exception:  # nothing that a shadow does may reach a client
            outcome = "failed"
            manifest = shadow.manifest
            logger.exception("shadow %s/%s", manifest.name, manifest.version)
        self._report(shadow.manifest, outcome)

    async def _outcome(
        self,
        inputs: CandidateList,
        row: Row,
        deployment: Deployment,
        slate: Slate,
        shadow: Deployment,
    ) -> str:
        if row.intent is not None and not shadow.session.supports_intent:
            return "skipped"
        shadow_row = row_for(shadow, inputs, row, deployment)
        if shadow_row.slate_size != row.slate_size:
            return "skipped"
        deadline = time.monotonic() + self._timeout_s
        (future,) = shadow.batcher.submit([shadow_row], [deadline], SHADOW_PRIORITY)
        result = await future
        if result.budget < shadow_row.budget:
            return "skipped"
        indices, shadow_indices = slate.indices.tolist(), result.slate.indices.tolist()
        if indices == shadow_indices:
            return "same_slate"
        return "same_items" if set(indices) == set(shadow_indices) else "different"


def row_for(shadow: Deployment, inputs: CandidateList, row: Row, deployment: Deployment) -> Row:
    """Featurise a list for the shadow, with the options that the request set itself."""
    shadow_row = shadow.session.row(inputs)
    options: dict[str, Any] = {
        name: value
        for name in OPTIONS
        if (value := getattr(row, name)) != getattr(deployment.manifest, name)
    }
    return dataclasses.replace(
        shadow_row,
        slate_size=min(row.slate_size, shadow_row.slate_size),
        constraints=row.constraints,
        intent=row.intent,
        budget=min(shadow_row.budget, row.budget),
        **options,
    )
