"""Finished rounds of a comparison, kept in a file until the report is written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from peers.environments import ENVIRONMENTS, version
from peers.options import LadderOptions


class Progress:
    """Rounds by server; an interrupted comparison continues from them.

    Rounds of another command or of another commit are not used, nor are rounds of a commit with
    uncommitted changes. A command for more or fewer rounds uses as many as it needs.

    rounds: by server, one dict a round; by scenario, it has rate, void, same and the figures of
        `load` in `peers.turns`.
    """

    def __init__(self, options: LadderOptions, names: Sequence[str]) -> None:
        self._path = ENVIRONMENTS / "progress.json"
        code = version(None)
        self._of = [code, options.seconds, options.p99_ms, str(options.bundle), *names]
        self.rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        with contextlib.suppress(OSError, ValueError, KeyError):
            kept = json.loads(self._path.read_text("utf-8"))
            if kept["of"] == self._of and not code.endswith(("-dirty", "unknown")):
                self.rounds = {name: kept["rounds"][name][: options.rounds] for name in names}

    def save(self) -> None:
        """Write the rounds; a crash leaves the file as it was before."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"of": self._of, "rounds": self.rounds}), "utf-8")
        part.replace(self._path)

    def end(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)
