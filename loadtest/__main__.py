"""python -m loadtest: latency of a service started for it, asked by one closed-loop client;
`fuzz` hunts for requests that break the contract instead, `overload` asks for too much,
`reloads` changes the model under load, `soak` waits for leaks, `cpu` tells who spends the time.

One client waits for each answer before it asks again, so queueing never shows: this is the latency
of a lone request, not a capacity.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np

from loadtest import cpu, overload, reloads, soak
from loadtest.server import ServerError, serving

COMMANDS = {
    "overload": overload.main, "reloads": reloads.main, "soak": soak.main, "cpu": cpu.main,
}  # fmt: skip


def main() -> int:
    """Start, warm, ask, print JSON, stop."""
    if sys.argv[1:2] == ["fuzz"]:
        from loadtest import fuzz  # what it imports is not needed, nor always there, for the rest

        return fuzz.main(sys.argv[2:])
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/ranklens/1"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--candidates", type=int, default=50)
    arguments = parser.parse_args()
    try:
        with np.load(arguments.bundle / "items.npz", allow_pickle=False) as table:
            known = table["ids"].tolist()
        if not 1 <= arguments.candidates <= len(known):
            print(f"loadtest: --candidates: 1 to {len(known)}, the bundle's items", file=sys.stderr)
            return 2
        with serving(arguments.bundle) as server:
            outcome = measure(server.url, known, arguments.seconds, arguments.candidates)
    except (OSError, ServerError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    print(json.dumps(outcome, indent=1))
    return 0


def measure(url: str, known: Sequence[str], seconds: float, candidates: int) -> dict[str, object]:
    """Ask with known ids and a history of 48, one after the other; quantiles in milliseconds.

    Raises RuntimeError at a degraded answer: it would be measured as a fast one.
    """
    draw = random.Random(0)
    wall, inference, steps = [], [], []
    with httpx.Client(base_url=url) as client:
        end = time.monotonic() + seconds + 1.0
        while time.monotonic() < end:
            past = draw.sample(known, min(48, len(known)))
            asked = {
                "user": {"history": [{"id": i, "label": draw.randint(0, 1)} for i in past]},
                "candidates": [{"id": i} for i in draw.sample(known, candidates)],
            }
            began = time.perf_counter()
            answer = client.post("/rerank", json=asked)
            spent = 1e3 * (time.perf_counter() - began)
            body = answer.raise_for_status().json()
            if body["degraded"]:
                raise RuntimeError(f"a degraded answer: {body['degraded']['reason']}")
            if time.monotonic() < end - seconds:
                continue  # the first second warms connection and caches
            wall.append(spent)
            inference.append(body["latency_ms"]["inference"])
            steps.append(body["reasoning"]["steps_used"])
    quantiles = {
        name: [round(float(np.quantile(values, q)), 2) for q in (0.5, 0.9, 0.99)]
        for name, values in (("wall_ms", wall), ("inference_ms", inference))
    }
    return {
        "requests": len(wall),
        "candidates": candidates,
        "quantiles": [0.5, 0.9, 0.99],
        **quantiles,
        "mean_reasoning_steps": round(float(np.mean(steps)), 2),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


if __name__ == "__main__":
    sys.exit(main())
