"""Re-rank the rows of a page on asyncio: several lists in one call, beside a single list.

python examples/rank_many.py [URL]
"""

import asyncio
import sys

from rerank_client import AsyncClient, ListRequest

ROWS: dict[str, ListRequest] = {
    "for you": {"candidates": ["1036", "10", "1042", "47", "50"], "slate_size": 3},
    "classics": {"candidates": ["260", "1196", "1198", "1210"], "slate_size": 2},
}


async def main(url: str = "http://127.0.0.1:8000") -> None:
    async with AsyncClient(url, timeout_ms=1000) as client:
        page, top = await asyncio.gather(
            client.rerank_many(list(ROWS.values()), request_id="page-1"),
            client.rerank(["318", "356", "593"], slate_size=1),
        )
    for name, response in zip(ROWS, page, strict=True):
        print(f"{name}: {', '.join(map(str, response.ids))} ({response.request_id})")
    print(f"top: {top.ids[0]}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
