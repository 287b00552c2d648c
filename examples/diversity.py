"""Replace an MMR step behind the re-ranker by `diversity` in the request.

    python examples/diversity.py [URL]

`before` is the code that a team had: it asks for more items than it shows and chooses among them by
maximal marginal relevance. The step sees ranks instead of scores, and undoes what the model knows
about the order. `after` is the code without it: one request, and every choice of the model knows
the genres that the slate already has.
"""

import sys
from collections.abc import Mapping, Sequence

from rerank_client import Client, Diversity

GENRES = {  # of the catalogue, for the candidates in the order of the first stage
    "1036": ["action", "thriller"],
    "10": ["adventure", "action", "thriller"],
    "165": ["action", "thriller"],
    "380": ["action", "thriller"],
    "589": ["action", "thriller", "science fiction"],
    "593": ["crime", "drama", "thriller"],
    "50": ["drama", "crime", "thriller"],
    "296": ["thriller", "crime"],
    "377": ["action", "adventure", "crime"],
    "231": ["comedy"],
    "356": ["comedy", "drama", "romance"],
    "588": ["animation", "family", "adventure", "fantasy", "romance"],
}
LENGTH = 5
USER = {"history": ["1196", "1198", {"id": "1721", "label": 0}]}


def similarity(one: str, other: str) -> float:
    """Return the share of the genres of two items that both have (Jaccard)."""
    a, b = set(GENRES[one]), set(GENRES[other])
    return len(a & b) / len(a | b)


def mmr(ranked: Sequence[str], length: int, trade_off: float = 0.7) -> list[str]:
    """Choose items by maximal marginal relevance; the relevance is the reciprocal of the rank."""
    relevance = {item: 1 / rank for rank, item in enumerate(ranked, start=1)}
    slate: list[str] = []
    while len(slate) < length:
        best = max(
            (item for item in ranked if item not in slate),
            key=lambda item: (
                trade_off * relevance[item]
                - (1 - trade_off) * max((similarity(item, other) for other in slate), default=0.0)
            ),
        )
        slate.append(best)
    return slate


def before(client: Client) -> list[str]:
    """Rank ten items and choose among them."""
    response = client.rerank(list(GENRES), user=USER, slate_size=10)
    return mmr([str(item) for item in response.ids], LENGTH)


def after(client: Client) -> list[str]:
    """Ask for a diverse slate; with their genres, the client's fallback is diverse too."""
    candidates: list[Mapping[str, object]] = [
        {"id": item, "topics": {"genres": genres}} for item, genres in GENRES.items()
    ]
    diversity: Diversity = {"by": "genres"}
    response = client.rerank(candidates, user=USER, slate_size=LENGTH, diversity=diversity)
    return [str(item) for item in response.ids]


def main(url: str = "http://127.0.0.1:8000") -> None:
    with Client(url) as client:
        for name, choose in (("before", before), ("after", after)):
            slate = choose(client)
            genres = {genre for item in slate for genre in GENRES[item]}
            print(f"{name}: {' '.join(slate)} with {len(genres)} genres")


if __name__ == "__main__":
    main(*sys.argv[1:])
