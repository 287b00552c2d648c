"""Feedback that is sent while something else is measured."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Iterator, Sequence

import httpx

from loadtest.state.calls import Event, feedback_body, require_accepted

CALLS_PER_S = 20
PATIENCE_S = 60.0


@contextlib.contextmanager
def steady_feedback(url: str, events: Sequence[Event], per_s: int) -> Iterator[list[int]]:
    """Send `per_s` events per second in CALLS_PER_S calls while the block runs.

    Yields a list that gets the number of events of each call that was acknowledged.

    Each event has a new id and the present time. Raises what a failed call raised.
    """
    done, failure, sent = threading.Event(), list[BaseException](), list[int]()
    prefix, size = uuid.uuid4().hex, max(1, per_s // CALLS_PER_S)

    def send() -> None:
        try:
            with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
                pour(client)
        except Exception as error:
            failure.append(error)

    def pour(client: httpx.Client) -> None:
        templates, numbers = itertools.cycle(events), itertools.count()
        began = time.monotonic()
        for call in itertools.count():
            if done.wait(max(0.0, began + call * size / per_s - time.monotonic())):
                return
            now = time.time_ns() // 1_000_000
            batch = [
                {**next(templates), "event_id": f"{prefix}-{next(numbers)}", "time": now}
                for _ in range(size)
            ]
            response = client.post("/feedback", content=feedback_body(batch))
            require_accepted(response.status_code, response.content, size)
            sent.append(size)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        done.set()
        thread.join()
    if failure:
        raise failure[0]
