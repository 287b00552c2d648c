"""Requests written byte by byte, and responses split apart."""

import json
import socket
import threading
from typing import NamedTuple

import httpx


class RawResponse(NamedTuple):
    """One response as it arrived: status, lower-case header names to values, body."""

    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


def connect(url, timeout_s=20):
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port), timeout=timeout_s)


def post(content, *lines, path="/rerank", version="1.1"):
    """Return the bytes of a POST with further header lines."""
    head = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(content)}", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + content


def read_all(connection):
    """Return everything until the other side closes."""
    received = b""
    while chunk := connection.recv(1 << 16):
        received += chunk
    return received


def exchange(url, *parts, half_close=False):
    """Send the parts over one connection and return the responses until it is closed.

    A thread sends, so that a server may respond before it has received everything.
    """
    with connect(url) as connection:

        def send():
            try:
                for part in parts:
                    connection.sendall(part)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                return  # closed by the server, as its response says

        sender = threading.Thread(target=send)
        sender.start()
        received = read_all(connection)
        sender.join()
    return responses(received)


def responses(received):
    """Split bytes into responses, whose bodies have a Content-Length."""
    split = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        length = int(headers["content-length"]) if status_line.split()[1] != "204" else 0
        split.append(RawResponse(int(status_line.split()[1]), headers, rest[:length]))
        received = rest[length:]
    return split
