"""Options of `python -m loadtest peers`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from peers import PEERS
from peers.environments import ENVIRONMENTS


@dataclass(frozen=True)
class LadderOptions:
    """Compare this service with other servers around the same bundle, on the same cores.

    Each server is started, its responses are compared with this service's, then the highest rate is
    searched for that keeps p99 within the bound. An interrupted comparison continues where it
    stopped when the same command runs on the same commit. Writes peers.json, peers.md and
    peers.png. Exit status 1 means that responses differ, 2 that a server or an option cannot be
    used, 3 that the load generator was the bottleneck.
    """

    bundle: Path = Path("bundles/ranklens/1")
    """Bundle to serve."""
    install: bool = False
    """Make missing environments first."""
    only: tuple[str, ...] = tuple(dict.fromkeys(peer.module for peer in PEERS))
    """Peers to compare, by module."""
    p99_ms: float = 30.0
    """Largest p99 latency that a rate may have, in milliseconds."""
    seconds: float = 4.0
    """Time at each rate."""
    rounds: int = 3
    """Searches of each server and kind of requests."""
    baseline: Path | None = None
    """Checkout of another commit, whose service takes part in the turns at equal load."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Directory of the report; by default docs/reports, or build/peers when --only omits peers."""
    page_only: bool = False
    """Write page and plot again from the peers.json in --out, without measuring."""
    html: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Write only peers.html into this directory, from peers.md and peers.json in --out."""

    @property
    def directory(self) -> Path:
        """The directory of the report."""
        if self.out is not None:
            return self.out
        complete = {peer.module for peer in PEERS} <= set(self.only)
        return Path("docs/reports") if complete else ENVIRONMENTS
