"""Generated requests to a service started for it, and checks of every response.

loadtest.fuzz.requests makes the requests, loadtest.fuzz.transport sends them, and
loadtest.fuzz.contract holds the responses against the contract. The same seed sends the same
requests, on several connections at once.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx
from tqdm import tqdm

from loadtest.contract_commands import Fuzz
from loadtest.errors import MISSED, PASSED
from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.contract import Contract, check_conversation
from loadtest.fuzz.entities import written_ids
from loadtest.fuzz.findings import Findings
from loadtest.fuzz.messages import Conversation, Manner
from loadtest.fuzz.requests import (
    Conversations,
    FromBundle,
    draw_conversations,
    from_document,
)
from loadtest.fuzz.transport import Outcome, send_all
from loadtest.fuzz.variants import optional_fields
from loadtest.fuzz.watch import Watch
from loadtest.processes import end_with_parent
from loadtest.results import commit
from loadtest.server import ServerError, serving

BLOCK = 5_000  # requests among which the kinds have their shares
CHUNK = 250  # requests drawn at once


def fuzz(options: Fuzz) -> int:
    """Send the requests and print the findings.

    After an interrupt the findings so far are written; raises KeyboardInterrupt then, unless a
    response broke the contract. Raises ServerError when the service does not publish its contract.
    """
    findings, began = Findings(), time.monotonic()
    interrupt: KeyboardInterrupt | None = None
    try:
        with (
            tempfile.TemporaryDirectory() as store,
            serving(options.bundle, state=f"lmdb://{store}") as server,
        ):
            watch = Watch(server)
            try:
                send_and_check(
                    server.url,
                    Bundle.read(options.bundle),
                    options.requests,
                    options.seed,
                    watch.look,
                    findings,
                )
            except KeyboardInterrupt as error:
                interrupt = error
            if findings.failed:
                print(server.log.read_text("utf-8", "replace")[-10_000:], file=sys.stderr)
    except httpx.HTTPError as error:
        raise ServerError(f"{type(error).__name__}: {error}") from error
    outcome = {
        "command": f"python -m loadtest fuzz --requests {options.requests} --seed {options.seed}",
        "commit": commit(),
        "stopped": interrupt is not None,
        "seconds": round(time.monotonic() - began, 1),
        "rss_mb": {"first": watch.rss_mb[0], "last": watch.rss_mb[-1], "most": max(watch.rss_mb)},
        **findings.as_dict(),
    }
    text = json.dumps(outcome, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    if findings.failed:
        return MISSED
    if interrupt is not None:
        raise interrupt
    return PASSED


def send_and_check(
    url: str,
    bundle: Bundle,
    count: int,
    seed: int,
    look: Callable[[], Iterable[tuple[str, str | None]]],
    findings: Findings,
) -> None:
    """Send `count` requests and add to the findings, until the service is no longer alive.

    Args:
        look: Returns checks of the service itself; called after every chunk of requests.

    Raises httpx.HTTPError when it does not publish its document and information.
    """
    document = httpx.get(f"{url}/openapi.json").raise_for_status().json()
    info = httpx.get(f"{url}/info").raise_for_status().json()
    contract = Contract(document, info, bundle)
    # In the processes started below, the order of a set depends on the seed alone.
    os.environ["PYTHONHASHSEED"] = "0"
    kinds = FromBundle(bundle, {}, has_store(document)).kinds()
    weights = {kind: weight for kind, (_, weight) in kinds.items()}
    tasks = list(plan(weights, seed, count))
    with (
        multiprocessing.get_context("spawn").Pool(
            os.cpu_count(), _prepare, (document, bundle)
        ) as pool,
        asyncio.Runner() as runner,
        tqdm(total=count, unit="request", mininterval=1.0, disable=None) as progress,
    ):
        for (kind, _, size), conversations in zip(tasks, pool.imap(_draw, tasks), strict=True):
            for message in (one for each in conversations for one in each.messages):
                bundle.written.update(written_ids(message))
            for outcome in runner.run(send_all(url, conversations)):
                judge(contract, outcome, findings)
            findings.sent[kind] += size
            progress.update(size)
            results = dict(look())
            for check, error in results.items():
                findings.note(check, error)
            progress.set_postfix(failed=findings.failed.total())
            if results.get("alive") is not None:
                return


Task = tuple[str, str, int]  # kind, key of its seed, requests


def plan(weights: Mapping[str, int], seed: int, count: int) -> Iterator[Task]:
    """Yield what to draw: half of each block from the document, the rest by weight."""
    shares = {"document": sum(weights.values()), **weights}
    for start in range(0, count, BLOCK):
        block, left = min(BLOCK, count - start), sum(shares.values())
        for kind, share in shares.items():
            size = round(block * share / left)  # of what the kinds before it left over
            block, left = block - size, left - share
            for part in range(0, size, CHUNK):
                yield kind, f"{seed}.{start}.{kind}.{part}", min(CHUNK, size - part)


def judge(contract: Contract, outcome: Outcome, findings: Findings) -> None:
    """Add the checks of one conversation and of each response to the findings."""
    conversation, responses = outcome.conversation, outcome.responses
    findings.manners[conversation.manner] += len(conversation.messages)
    missing = len(conversation.messages) - len(responses)
    left = conversation.manner is Manner.DEPARTED
    findings.statuses["left" if left else "none"] += missing
    last = max(0, min(len(responses), len(conversation.messages) - 1))
    for check, error in check_conversation(outcome):
        body = responses[-1].body if responses else b""
        findings.note(check, error, conversation, last, body)
    for index, (message, response) in enumerate(
        zip(conversation.messages, responses, strict=False)
    ):
        findings.statuses[str(response.status)] += 1
        findings.degraded += response.body.count(b'"degraded":{"reason"')
        for check, error in contract.check(message, response):
            findings.note(check, error, conversation, index, response.body)


def has_store(document: Mapping[str, Any]) -> bool:
    """Return True if a document has the routes of the entity store."""
    return "/users" in document["paths"]


# Drawing takes more time than answering, so it has processes of its own.

STRATEGIES: dict[str, Conversations] = {}


def _prepare(document: dict[str, Any], bundle: Bundle) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    end_with_parent()
    STRATEGIES["document"] = from_document(document)
    strategies = FromBundle(bundle, optional_fields(document), has_store(document))
    for kind, (strategy, _) in strategies.kinds().items():
        STRATEGIES[kind] = strategy


def _draw(task: Task) -> list[Conversation]:
    kind, key, count = task
    return draw_conversations(STRATEGIES[kind], key, count)
