"""Generated requests to a service started for it, and checks of every response.

loadtest.fuzz_requests makes the requests, loadtest.fuzz_checks holds the responses against the
contract. The same seed sends the same requests, on several connections at once.
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
from loadtest.fuzz_checks import Bundle, Contract, Response
from loadtest.fuzz_requests import Message, draw_messages, from_bundle, from_document
from loadtest.processes import end_with_parent
from loadtest.server import ServerError, serving

CHUNK = 250  # requests drawn at once
CONNECTIONS = 16
ANSWER_S = 60.0  # a request without a response for so long was dropped
EXAMPLES = 5  # failing examples that are kept of each check
MAX_TEXT = 2_000  # characters of a body in an example


@dataclass
class Findings:
    """Responses by source and status, checks made and failed, and failing examples."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def note(self, check: str, error: str | None, message: Message | None, body: bytes) -> None:
        """Count a check, and keep the first failing examples of each. body: the response's."""
        self.checks[check] += 1
        if error is None:
            return
        self.failed[check] += 1
        if self.failed[check] <= EXAMPLES:
            example: dict[str, Any] = {"check": check, "wrong": error, "answer": _text(body)}
            if message is not None:
                example |= {
                    "request": f"{message.method} {message.target}"[:MAX_TEXT],
                    "headers": [f"{name}: {value}"[:MAX_TEXT] for name, value in message.headers],
                    "body": _text(message.body),
                }
            self.examples.append(example)

    def as_dict(self) -> dict[str, Any]:
        """Return the findings for JSON."""
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


def _text(content: bytes) -> str:
    return content[:MAX_TEXT].decode("utf-8", "backslashreplace")


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
                send_and_check(
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


def send_and_check(
    url: str,
    bundle: Bundle,
    count: int,
    seed: int,
    alive: Callable[[], bool],
    findings: Findings,
) -> None:
    """Send `count` requests and add to the findings, until the service is no longer alive.

    Raises httpx.HTTPError when it does not publish its document and information.
    """
    document = httpx.get(f"{url}/openapi.json").raise_for_status().json()
    info = httpx.get(f"{url}/info").raise_for_status().json()
    contract = Contract(document, info, bundle)
    # In the processes started below, the order of a set depends on the seed alone.
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
            for message, response in runner.run(_send_all(url, messages)):
                _judge(contract, message, response, findings)
            findings.sent[source] += len(messages)
            progress.update(len(messages))
            progress.set_postfix(failed=findings.failed.total())
            up = alive()
            findings.note("alive", None if up else "the process has ended", None, b"")
            if not up:
                return


def _judge(
    contract: Contract, message: Message, response: Response | str, findings: Findings
) -> None:
    if isinstance(response, str):
        findings.statuses["none"] += 1
        findings.note("answered", response, message, b"")
        return
    findings.statuses[str(response.status)] += 1
    findings.note("answered", None, message, response.body)
    findings.degraded += response.body.count(b'"degraded":{"reason"')
    for check, error in contract.check(message, response):
        findings.note(check, error, message, response.body)


# Drawing takes more time than answering, so it has processes of its own.

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
    return draw_messages(SOURCES[source], key, count)


# Requests are sent as bytes over kept connections, so that no library mends them on the way.


async def _send_all(url: str, messages: Sequence[Message]) -> list[tuple[Message, Response | str]]:
    """Return each message with its response, or with the reason why there is none, in order."""
    host, port = url.removeprefix("http://").split(":")
    responses: list[Response | str] = [""] * len(messages)
    queue = iter(enumerate(messages))
    clients = (_client(host, int(port), queue, responses) for _ in range(CONNECTIONS))
    await asyncio.gather(*clients)
    return list(zip(messages, responses, strict=True))


async def _client(
    host: str,
    port: int,
    queue: Iterator[tuple[int, Message]],
    responses: list[Response | str],
) -> None:
    connection = None
    for index, message in queue:
        keep = False
        try:
            async with asyncio.timeout(ANSWER_S):
                connection = connection or await asyncio.open_connection(host, port)
                responses[index], keep = await _exchange(*connection, message)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            responses[index] = f"no answer: {error!r}"
        if connection is not None and not keep:
            connection[1].close()
            connection = None
    if connection is not None:
        connection[1].close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: Message
) -> tuple[Response, bool]:
    """Return the response, and True if the connection can be used again."""
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
    return Response(status, headers, body), headers.get("connection", "").lower() != "close"
