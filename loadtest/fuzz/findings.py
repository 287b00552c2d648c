"""The findings of a fuzzing run: counts by status and check, and failing examples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from loadtest.fuzz.messages import Conversation, Message

EXAMPLES = 5  # failing examples that are kept of each check
MAX_TEXT = 2_000  # characters of a body or header in an example
MAX_HEADERS = 20


@dataclass
class Findings:
    """Responses by source and status, checks made and failed, and failing examples.

    manners: messages by the manner of their conversation.
    """

    sent: Counter[str] = field(default_factory=Counter)
    manners: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def note(
        self,
        check: str,
        error: str | None,
        conversation: Conversation | None = None,
        index: int = 0,
        body: bytes = b"",
    ) -> None:
        """Count a check, and keep the first failing examples of each.

        Args:
            index: of the message in the conversation.
            body: the response's.
        """
        self.checks[check] += 1
        if error is None:
            return
        self.failed[check] += 1
        if self.failed[check] > EXAMPLES:
            return
        example: dict[str, Any] = {"check": check, "wrong": error, "answer": text_of(body)}
        if conversation is not None:
            example["manner"] = f"{conversation.manner}, message {index}"
            example |= described(conversation.messages[index])
            if len(conversation.messages) > 1:
                example["before"] = [described(m) for m in conversation.messages[:index]]
        self.examples.append(example)

    def as_dict(self) -> dict[str, Any]:
        """Return the findings for JSON."""
        return {
            "requests": dict(sorted(self.sent.items())),
            "manners": dict(sorted(self.manners.items())),
            "statuses": dict(sorted(self.statuses.items())),
            "degraded": self.degraded,
            "checks": {
                name: {"made": made, "failed": self.failed[name]}
                for name, made in sorted(self.checks.items())
            },
            "examples": self.examples,
        }


def described(message: Message) -> dict[str, Any]:
    """Return a message for JSON, truncated."""
    content = {
        "request": f"{message.method} {message.target} HTTP/{message.version}"[:MAX_TEXT],
        "headers": [
            f"{name}: {value}"[:MAX_TEXT] for name, value in message.all_headers()[:MAX_HEADERS]
        ],
        "body": text_of(message.body),
    }
    if message.is_chunked:
        content["framing"] = (
            f"{message.chunks()} chunks, extensions of {len(message.extension)} bytes, "
            f"{len(message.trailers)} trailers of {sum(map(len, sum(message.trailers, ())))} bytes"
        )
    return content


def text_of(content: bytes) -> str:
    """Return bytes as text, truncated."""
    return content[:MAX_TEXT].decode("utf-8", "backslashreplace")
