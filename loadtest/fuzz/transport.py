"""Send fuzzed requests as bytes over connections, so that no library mends them on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from loadtest.fuzz.messages import IN_TURN, Conversation, Manner, Message, Response

CONNECTIONS = 16
ANSWER_S = 60.0  # a request without a response for so long was dropped
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Outcome:
    """One conversation and its responses, in order.

    responses: may be shorter than the messages. error: the reason why one is missing, None if the
    connection ended properly. rest: bytes after the last response, where the connection ended.
    """

    conversation: Conversation
    responses: list[Response] = field(default_factory=list)
    error: str | None = None
    rest: bytes = b""


class Client:
    """One client with at most one open connection."""

    def __init__(self, url: str) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._stream: Stream | None = None
        self._unsent: list[asyncio.WriteTransport] = []

    async def hold(self, outcome: Outcome) -> None:
        """Hold a conversation and fill its outcome."""
        keep = False
        try:
            async with asyncio.timeout(ANSWER_S):
                if outcome.conversation.manner in IN_TURN:
                    keep = await self._in_turn(outcome)
                else:
                    self.close()
                    await _together(*await self._open(), outcome)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            outcome.error = repr(error)
        if not keep:
            self.close()

    async def _open(self) -> Stream:
        if self._stream is None:
            self._stream = await asyncio.open_connection(self._host, self._port)
        return self._stream

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._stream is not None:
            transport = self._stream[1].transport
            transport.close()
            if transport.get_write_buffer_size():
                self._unsent.append(transport)
            self._stream = None

    def end(self) -> None:
        """Close the connection and drop what earlier ones could not send.

        A transport with unsent bytes would outlive the event loop, and its socket with it.
        """
        self.close()
        for transport in self._unsent:
            if transport.get_write_buffer_size():  # one that sent them has left the event loop
                transport.abort()

    async def _in_turn(self, outcome: Outcome) -> bool:
        """Send each message after the response to the one before it; return True to keep it."""
        keep = True
        for message in outcome.conversation.messages:
            if not keep:
                self.close()
            reader, writer = await self._open()
            writer.write(message.wire())
            response = await _read(reader, message)
            outcome.responses.append(response)
            keep = is_kept(message, response)
        return keep


async def send_all(url: str, conversations: Sequence[Conversation]) -> list[Outcome]:
    """Return the outcome of each conversation, in order."""
    outcomes = [Outcome(conversation) for conversation in conversations]
    queue = iter(outcomes)
    await asyncio.gather(*(_work(url, queue) for _ in range(CONNECTIONS)))
    return outcomes


async def _work(url: str, queue: Iterator[Outcome]) -> None:
    client = Client(url)
    for outcome in queue:
        await client.hold(outcome)
    client.end()


async def _together(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, outcome: Outcome
) -> None:
    """Send all messages at once and read the responses, until one of them ends the connection."""
    conversation = outcome.conversation
    writer.write(conversation.wire())
    if conversation.manner is Manner.DEPARTED:
        await writer.drain()
        return
    if conversation.manner in (Manner.HALF_CLOSED, Manner.CUT):
        writer.write_eof()
    keep = True
    for message in conversation.messages:
        try:
            response = await _read(reader, message)
        except asyncio.IncompleteReadError as error:
            if error.partial or conversation.manner is not Manner.CUT:
                raise
            return  # closed without a response to the message that was cut
        outcome.responses.append(response)
        keep = is_kept(message, response)
        if not keep:
            break
    if not keep or conversation.manner is not Manner.PIPELINED:
        outcome.rest = await reader.read()


async def _read(reader: asyncio.StreamReader, message: Message) -> Response:
    """Return the response to a message. Raises EOFError, OSError or ValueError."""
    interim = 0
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        if status != 100:
            break
        interim += 1
    pairs = (line.split(":", 1) for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, value in pairs}
    bodiless = message.method == "HEAD" or status in (204, 304)
    body = await reader.readexactly(0 if bodiless else int(headers["content-length"]))
    return Response(status, headers, body, interim)


def is_kept(message: Message, response: Response) -> bool:
    """Return True if the connection can be used for the next message."""
    stated = response.headers.get("connection", "").lower()
    return stated == "keep-alive" if message.version == "1.0" else stated != "close"
