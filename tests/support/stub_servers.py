"""Servers on real sockets that respond the same to every request, slowly or wrongly on purpose."""

import contextlib
import json
import socket
import threading
import time

RANKED = json.dumps(
    {
        "degraded": None,
        "reasoning": {"budget_per_position": 3, "steps_used": 7},
        "latency_ms": {"total": 2.0, "queue": 0.5, "inference": 1.0},
    }
).encode()


def http(content=RANKED, status=200):
    """Return the bytes of a response."""
    return b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content


@contextlib.contextmanager
def stub_server(delay_s=0.0, reply=None, close=False, times=None):
    """Run a server with a thread per connection and yield its URL.

    Each response takes `delay_s`. close: reset the connection in place of a response. times: a
    list that gets the time of each request.
    """
    reply = http() if reply is None else reply
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.settimeout(0.1)
    done, threads = threading.Event(), []

    def serve(connection):
        with connection:
            connection.settimeout(0.1)
            while not done.is_set():
                try:
                    if not connection.recv(65536):
                        return
                except TimeoutError:
                    continue
                except OSError:
                    return
                if close:
                    return
                if times is not None:
                    times.append(time.monotonic())
                done.wait(delay_s)
                with contextlib.suppress(OSError):
                    connection.sendall(reply)

    def accept():
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        done.set()
        acceptor.join()
        for thread in threads:
            thread.join()
        listener.close()


@contextlib.contextmanager
def unused_url():
    """Yield a URL where connections are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def wait_for(condition, seconds=60.0):
    """Wait until a condition holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)
