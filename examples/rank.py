"""Re-rank one list with the blocking client.

    python examples/rank.py [URL]

The item ids are movies of the bundle that `make serve` serves.
"""

import sys

from rerank_client import Client

CANDIDATES = ["1036", "10", "1042", "47", "50", "110", "150", "589"]  # best first, as you rank them


def main(url: str = "http://127.0.0.1:8000") -> None:
    with Client(url, timeout_ms=1000) as client:
        response = client.rerank(
            CANDIDATES,
            user={"history": ["1196", "1198", {"id": "1721", "label": 0}]},
            slate_size=3,
            constraints={"pinned": {"50": 0}, "blocked": ["10"]},
        )
    for entry in response.slate:
        print(f"{entry.position}: {entry.id}, number {entry.initial_position} of the candidates")
    if response.degraded:
        print(f"degraded: {response.degraded}")


if __name__ == "__main__":
    main(*sys.argv[1:])
