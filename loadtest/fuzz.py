"""python -m loadtest fuzz: generated requests to a service started for it; does any answer break
the contract?

Half of the requests are schemathesis's, from the service's own OpenAPI document, half come from
strategies over the bundle (loadtest.fuzz_requests); every answer is held against
loadtest.fuzz_checks. The same seed sends the same requests, on several connections at once.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from hypothesis import strategies as st
from tqdm import tqdm

from loadtest.commands import Fuzz
from loadtest.errors import MISSED, PASSED
from loadtest.fuzz_checks import Answer, Bundle, Contract
from loadtest.fuzz_requests import Message, drawn, from_bundle, from_document
from loadtest.processes import end_with_parent
from loadtest.server import ServerError, serving

CHUNK = 250  # requests drawn at once
CONNECTIONS = 16
ANSWER_S = 60.0  # a request without an answer for so long is a dropped one
KEPT = 5  # failing examples told of each check
SHOWN = 2_000  # characters of a body that are told


@dataclass
class Findings:
    """What came back: answers by source and status, checks made and failed, failing examples."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def note(self, check: str, wrong: str | None, sent: Message | None, answer: bytes) -> None:
        """Count a check; keep the first failing examples of each."""
        self.checks[check] += 1
        if wrong is None:
            return
        self.failed[check] += 1
        if self.failed[check] <= KEPT:
            example = {"check": check, "wrong": wrong, "answer": _shown(answer)}
            if sent is not None:
                example |= {
                    "request": f"{sent.method} {sent.target}"[:SHOWN],
                    "headers": [f"{name}: {value}"[:SHOWN] for name, value in sent.headers],
                    "body": _shown(sent.body),
                }
            self.examples.append(example)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "requests": dict(sorted(self.sent.items())),
            "statuses": dict(sorted(self.statuses.items())),
            "degraded": self.degraded,
            "checks": {
                name: {"made": made, "failed": self.failed[name]}
                for name, made in sorted(self.checks.items())
            },
            "examples": self.examples,
        }


def _shown(content: bytes) -> str:
    return content[:SHOWN].decode("utf-8", "backslashreplace")


def fuzz(options: Fuzz) -> int:
    """Send the requests and print the findings.

    After an interrupt the findings so far are written; raises KeyboardInterrupt then, unless a
    response broke the contract. Raises ServerError when the service does not publish its contract.
    """
    findings, began = Findings(), time.monotonic()
    interrupt: KeyboardInterrupt | None = None
    try:
        with serving(options.bundle) as server:
            try:
                ask(
                    server.url,
                    Bundle.read(options.bundle),
                    options.requests,
                    options.seed,
                    lambda: server.process.poll() is None,
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
        "stopped": interrupt is not None,
        "seconds": round(time.monotonic() - began, 1),
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


def ask(
    url: str,
    bundle: Bundle,
    count: int,
    seed: int,
    alive: Callable[[], bool],
    findings: Findings,
) -> None:
    """Send `count` requests to a service and add to the findings, until it is no longer alive.

    Raises httpx.HTTPError where it does not publish what it is.
    """
    document = httpx.get(f"{url}/openapi.json").raise_for_status().json()
    info = httpx.get(f"{url}/info").raise_for_status().json()
    contract = Contract(document, info, bundle)
    # A dictionary's order is the seed's, not the hash's of the day, in processes started anew.
    os.environ["PYTHONHASHSEED"] = "0"
    starts = range(0, count, CHUNK)
    tasks = [
        (source, f"{seed}.{start}.{source}", (min(CHUNK, count - start) + odd) // 2)
        for start in starts
        for odd, source in enumerate(("document", "bundle"))
    ]
    with (
        multiprocessing.get_context("spawn").Pool(
            os.cpu_count(), _prepare, (document, bundle.ids, bundle.categories)
        ) as pool,
        asyncio.Runner() as runner,
        tqdm(total=count, unit="request", mininterval=1.0) as progress,
    ):
        for (source, *_), messages in zip(tasks, pool.imap(_draw, tasks), strict=True):
            for message, answer in runner.run(_send_all(url, messages)):
                _judge(contract, message, answer, findings)
            findings.sent[source] += len(messages)
            progress.update(len(messages))
            progress.set_postfix(failed=findings.failed.total())
            up = alive()
            findings.note("alive", None if up else "the process has ended", None, b"")
            if not up:
                return


def _judge(contract: Contract, message: Message, answer: Answer | str, findings: Findings) -> None:
    if isinstance(answer, str):
        findings.statuses["none"] += 1
        findings.note("answered", answer, message, b"")
        return
    findings.statuses[str(answer.status)] += 1
    findings.note("answered", None, message, answer.body)
    findings.degraded += answer.body.count(b'"degraded":{"reason"')
    for check, wrong in contract.check(message, answer):
        findings.note(check, wrong, message, answer.body)


# Drawing, in processes of its own: it takes more time than answering.

SOURCES: dict[str, st.SearchStrategy[Message]] = {}


def _prepare(
    document: dict[str, Any], ids: Sequence[str], categories: dict[str, list[str]]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    end_with_parent()
    SOURCES["document"] = from_document(document)
    SOURCES["bundle"] = from_bundle(ids, categories)


def _draw(task: tuple[str, str, int]) -> list[Message]:
    source, key, count = task
    return drawn(SOURCES[source], key, count)


# Sending: requests as bytes over keep-alive connections, so that nothing is mended on the way.


async def _send_all(url: str, messages: Sequence[Message]) -> list[tuple[Message, Answer | str]]:
    """Each message with its answer, or with why there is none; in order."""
    host, port = url.removeprefix("http://").split(":")
    answers: list[Answer | str] = [""] * len(messages)
    queue = iter(enumerate(messages))
    clients = (_client(host, int(port), queue, answers) for _ in range(CONNECTIONS))
    await asyncio.gather(*clients)
    return list(zip(messages, answers, strict=True))


async def _client(
    host: str,
    port: int,
    queue: Iterator[tuple[int, Message]],
    answers: list[Answer | str],
) -> None:
    connection = None
    for index, message in queue:
        keep = False
        try:
            async with asyncio.timeout(ANSWER_S):
                connection = connection or await asyncio.open_connection(host, port)
                answer, keep = await _exchange(*connection, message)
                answers[index] = answer
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            answers[index] = f"no answer: {error!r}"
        if connection is not None and not keep:
            connection[1].close()
            connection = None
    if connection is not None:
        connection[1].close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: Message
) -> tuple[Answer, bool]:
    """The answer, and whether the connection can be used again."""
    writer.write(message.wire())
    await writer.drain()
    status = 100
    while status == 100:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
    pairs = (line.split(":", 1) for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, value in pairs}
    bodiless = message.method == "HEAD" or status in (204, 304)
    size = 0 if bodiless else int(headers["content-length"])
    body = await reader.readexactly(size)
    return Answer(status, headers, body), headers.get("connection", "").lower() != "close"
